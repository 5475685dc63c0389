#!/usr/bin/env bash
# Train a model, serve it on localhost with a page to try it, and send a sample request. Runs until Ctrl-C.
#   scripts/demo.sh
#   PORT=9000 scripts/demo.sh      HTTP port 9000 instead of 8080; gRPC uses the next one
# Uses the model in the repository's folder if there is one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

port=${PORT:-8080}
python=scripts/.venv/bin/python
page=http://localhost:$port/ui
url=http://localhost:$port/v1/models/textclustering
text='The goalie stopped every shot in overtime'

scripts/venv.sh scripts/requirements-image.txt scripts/requirements.txt

for wanted in "$port" "$((port + 1))"; do
  if "$python" -c "import socket; socket.create_connection(('localhost', $wanted), 1)" 2>/dev/null; then
    echo "demo.sh: port $wanted is already in use; choose another, for example: PORT=9000 scripts/demo.sh (uses 9000 and 9001)" >&2
    exit 2
  fi
done

if [ -e model.joblib ] && [ -e transformer.joblib ] && [ -e clusters.json ]; then
  echo "Using the existing model; to train it again: $python scripts/text_clustering.py --lsa 100"
elif "$python" scripts/text_clustering.py --lsa 100; then
  :
elif [ $? -eq 2 ]; then
  echo "demo.sh: 20 Newsgroups is not available; training on the documentation inside botocore instead" >&2
  text='Create a snapshot of the database cluster and restore it in another region.'
  "$python" scripts/text_clustering.py --lsa 100 --dataset aws-docs
else
  exit 1
fi

# In its own process group: otherwise it would receive Ctrl-C in addition to the signal of the trap below, and a second
# signal aborts its shutdown. The access log on standard output would separate the request from its answer.
set -m
KSERVE_LOGLEVEL=WARNING "$python" transformer.py --model_name textclustering \
  --transformer-path transformer.joblib --model-path model.joblib \
  --http_port "$port" --grpc_port "$((port + 1))" --enable_latency_logging false >/dev/null &
server=$!
set +m
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT
trap 'echo; exit 0' INT TERM

echo "Waiting for the service on port $port, at most 60 s"
"$python" - "$page" "$url" "$text" "$server" <<'PYTHON'
import json, os, sys, time, urllib.request

page, url, text, server = *sys.argv[1:4], int(sys.argv[4])
body = json.dumps({"instances": [text]})
# Never through a proxy: it could not reach this machine's localhost.
proxied = urllib.request.getproxies() and not urllib.request.proxy_bypass("localhost")
urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))


def post(verb):
    return urllib.request.urlopen(f"{url}:{verb}", body.encode(), timeout=10).read().decode()


for _ in range(120):
    try:
        urllib.request.urlopen(url, timeout=1)
        break
    except OSError:
        os.kill(server, 0)
        time.sleep(0.5)
else:
    sys.exit("demo.sh: the service is not ready after 60 s")

print(f"\nOpen {page} in a browser, or send a request:")
print(f"$ curl {'--noproxy localhost ' if proxied else ''}{url}:predict -d '{body}'")
print(post("predict"))
explanation = json.loads(post("explain"))["explanations"][0]
print(f"Cluster {explanation['cluster']}: {', '.join(explanation['top_terms'])}\n")
PYTHON
echo "Serving until Ctrl-C"
wait "$server"
