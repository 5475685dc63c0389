"""Local fakes of download sites, node ports and Istio's gateway, on 127.0.0.1.

The real curl sends the requests: its configuration redirects them here and trusts the certificate. The download sites
return the files of support/upstream_files.py or 404; the gateway returns the statuses that a test chooses.
"""

import http.server
import ssl
import subprocess
import threading
from urllib.parse import urlsplit

# Asked by the "check" step, beside the hosts of the downloads.
REGISTRIES = ("registry-1.docker.io", "quay.io")


class Server(http.server.ThreadingHTTPServer):
    """answer(host, path) gives status and content of an answer."""

    daemon_threads = True

    def __init__(self, address, port, answer, context=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                status, content = answer(self.headers["Host"], self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        super().__init__((address, port), Handler)
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class Internet:
    """Serves {address: file} under the addresses' own names. folder holds a curl configuration that leads to it."""

    def __init__(self, folder, files):
        self.files, self.asked = files, []
        hosts = sorted({urlsplit(address).hostname for address in files} | set(REGISTRIES))
        folder.mkdir(parents=True)
        names = ",".join(f"DNS:{host}" for host in hosts)
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        request = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test -addext subjectAltName={names} -keyout {key} -out {certificate}"
        subprocess.run(request.split(), check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server = Server("127.0.0.1", 0, self.answer, context)
        lines = [f'connect-to = "{host}:443:127.0.0.1:{self.server.server_port}"' for host in hosts]
        # One second instead of fifteen for the five attempts.
        text = "\n".join([*lines, f'cacert = "{certificate}"', "retry-max-time = 1", ""])
        (folder / ".curlrc").write_text(text)
        (folder / "offline").mkdir()
        (folder / "offline/.curlrc").write_text(text.replace(f":{self.server.server_port}", ":1"))
        self.folder = folder

    def answer(self, host, path):
        address = f"https://{host}{path}"
        self.asked.append(address)
        if address not in self.files:
            return 404, b""
        return 200, open(self.files[address], "rb").read()


class Gateway:
    """Stands where Istio's gateway does: knows the services of the cluster by their hosts, and says when it is ready."""

    def __init__(self, address):
        self.services = {}
        self.servers = [Server(address, 80, self.answer), Server(address, 15021, lambda host, path: (200, b""))]

    def answer(self, host, path):
        answers = self.services.get(host, [404])
        return (answers.pop(0) if len(answers) > 1 else answers[0]), b"{}"

    def close(self):
        for server in self.servers:
            server.close()


class NodePort:
    """A NodePort at the node's address: listens once there is a node, and is ready once the cluster has an object."""

    def __init__(self, address, port, state, needs):
        self.address, self.port, self.state, self.needs = address, port, state, needs
        self.server, self.closed = None, threading.Event()
        threading.Thread(target=self.wait_for_node, daemon=True).start()

    def wait_for_node(self):
        while not self.closed.wait(0.05):
            if (self.state / "containers.json").exists():
                self.server = Server(self.address, self.port, self.answer)
                return

    def answer(self, host, path):
        objects = self.state / "objects.json"
        there = objects.exists() and self.needs in objects.read_text()
        return (200 if there else 503), b""

    def close(self):
        self.closed.set()
        if self.server:
            self.server.close()
