// Two processes that answer GET /N with a digest that was computed, and how many they gave before.
const cluster = require('cluster');
const crypto = require('crypto');
const http = require('http');

const port = Number(process.argv[2]);

function digest(text) {
  for (let i = 0; i < 50; ++i) text = crypto.createHash('sha256').update(text).digest('hex');
  return text;
}

if (cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
  cluster.on('exit', () => process.exit(1));
} else {
  let answers = 0;
  const server = http.createServer((request, response) => {
    response.end(`${digest(request.url.slice(1))} ${++answers}`);
  });
  server.keepAliveTimeout = 0;  // no connection is closed because nobody asks for a while
  server.listen(port, '127.0.0.1');
}
process.on('SIGTERM', () => process.exit(0));
