#!/usr/bin/env bash
# Train, serve and ask, on this machine: no cluster, no container. Stays up until Ctrl-C.
#   scripts/demo.sh
#   PORT=9000 scripts/demo.sh      another port than 8080 (gRPC: the next one)
# Trains only when there is no model in the folder of the repository yet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

port=${PORT:-8080}
python=scripts/.venv/bin/python
url=http://localhost:$port/v1/models/textclustering
question='The goalie stopped every shot and the team won the playoff game in overtime.'

scripts/venv.sh scripts/requirements-image.txt scripts/requirements.txt

for wanted in "$port" "$((port + 1))"; do
  if "$python" -c "import socket; socket.create_connection(('localhost', $wanted), 1)" 2>/dev/null; then
    echo "demo.sh: port $wanted is taken; choose others: PORT=9000 scripts/demo.sh takes 9000 and 9001" >&2
    exit 2
  fi
done

if [ -e model.joblib ] && [ -e transformer.joblib ] && [ -e clusters.json ]; then
  echo "Using the model that is here; to train it again: $python scripts/text_clustering.py"
elif "$python" scripts/text_clustering.py; then
  :
elif [ $? -eq 2 ]; then
  echo "demo.sh: 20 Newsgroups cannot be had; training on the documentation inside botocore instead" >&2
  question='Create a snapshot of the database cluster and restore it in another region.'
  "$python" scripts/text_clustering.py --dataset aws-docs
else
  exit 1
fi

# In a process group of its own: Ctrl-C would reach it beside the signal that it gets below, and a second one makes it
# break off. Standard output is the access log, which would stand between the question and its answer.
set -m
KSERVE_LOGLEVEL=WARNING "$python" transformer.py --model_name textclustering \
  --transformer-path transformer.joblib --model-path model.joblib \
  --http_port "$port" --grpc_port "$((port + 1))" --enable_latency_logging false >/dev/null &
server=$!
set +m
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT
trap 'echo; exit 0' INT TERM

echo "Waiting for the service on port $port, 60 s at most"
"$python" - "$url" "$question" "$server" <<'PYTHON'
import json, os, sys, time, urllib.request

url, question, server = sys.argv[1], sys.argv[2], int(sys.argv[3])
body = json.dumps({"instances": [[question]]})
# What runs on this machine is not asked through a proxy.
proxied = urllib.request.getproxies() and not urllib.request.proxy_bypass("localhost")
urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))


def ask(verb):
    return json.load(urllib.request.urlopen(f"{url}:{verb}", body.encode(), timeout=10))


for _ in range(120):
    try:
        urllib.request.urlopen(url, timeout=1)
        break
    except OSError:
        os.kill(server, 0)
        time.sleep(0.5)
else:
    sys.exit("demo.sh: the service is not ready after 60 s")

print(f"\n$ curl {'--noproxy localhost ' if proxied else ''}{url}:predict -d '{body}'")
print(json.dumps(ask("predict")))
explanation = ask("explain")["explanations"][0]
print(f"cluster {explanation['cluster']}: {' '.join(explanation['top_terms'])}\n")
PYTHON
echo "Serving $url:predict and :explain until Ctrl-C"
wait "$server"
