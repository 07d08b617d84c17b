// A small board whose sessions live in the memory of its process: the case that needs sticky sessions and
// a drain that waits for them. Node alone, without packages.
'use strict';

const { randomUUID } = require('node:crypto');
const http = require('node:http');

const server_name = process.env.EVENKEEL_SERVER ?? '?';
const version = process.env.VERSION ?? '1';
const [host, port] = (process.env.EVENKEEL_ADDRESS ?? '127.0.0.1:3000').split(/:(?=\d+$)/);

const sessions = new Map();

function session_of(request) {
  const cookie = (request.headers.cookie ?? '').split(/; */).find((pair) => pair.startsWith('sid='));
  return sessions.get(cookie?.slice('sid='.length));
}

function answer(response, status, told, headers = {}) {
  const body = JSON.stringify({ ...told, server: server_name, version });
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(body),
    ...headers,
  });
  response.end(body);
}

const server = http.createServer((request, response) => {
  // What is posted is not looked at; unread it would hold up the connection.
  request.resume();
  const { pathname } = new URL(request.url, 'http://localhost');
  switch (`${request.method} ${pathname}`) {
    case 'GET /healthz':
      return answer(response, 200, {});
    case 'POST /board/login': {
      const sid = randomUUID();
      sessions.set(sid, { visits: 0 });
      return answer(response, 200, { login: true }, { 'Set-Cookie': `sid=${sid}; Path=/board; HttpOnly; SameSite=Lax` });
    }
    case 'GET /board/visits': {
      const session = session_of(request);
      if (!session) return answer(response, 401, { error: 'log in first' });
      session.visits += 1;
      return answer(response, 200, { visits: session.visits });
    }
    default:
      return answer(response, 404, {});
  }
});

// Longer than the proxy keeps an idle connection (`pool.idle_timeout`), or a request may meet the close on its
// way. The default is 5 s.
server.keepAliveTimeout = 75_000;

server.listen(Number(port), host);

// What a service manager sends. A drained server has nothing in flight; idle connections are closed.
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
