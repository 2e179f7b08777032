"""python3's socketserver, a thread or a process a connection: socket_server.py threads|forks PORT.

Each line that comes in goes back in capitals, with its number on that connection.
"""
import socketserver
import sys


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for number, line in enumerate(self.rfile, 1):
            self.wfile.write(b"%d: %s" % (number, line.upper()))


kind, port = sys.argv[1:]
base = {"threads": socketserver.ThreadingTCPServer, "forks": socketserver.ForkingTCPServer}[kind]
base.allow_reuse_address = True
base.daemon_threads = True
with base(("127.0.0.1", int(port)), Handler) as server:
    server.serve_forever()
