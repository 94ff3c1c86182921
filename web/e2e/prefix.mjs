// A proxy that serves a gateway below a path, as a part of a larger site: `/foo/…` is the gateway's `/…`.
import { once } from 'node:events';
import { createServer, request } from 'node:http';

export async function startPrefix(gateway, prefix) {
  const { port } = new URL(gateway.url);
  /** The same request, to the gateway; `null` if it is not the gateway's. */
  const forward = ({ method, url, headers }) =>
    url.startsWith(prefix)
      ? request({ host: '127.0.0.1', port, method, headers, path: url.slice(prefix.length - 1) })
      : null;
  const server = createServer((asked, answer) => {
    const forwarded = forward(asked);
    if (forwarded === null) {
      answer.writeHead(404).end();
      return;
    }
    forwarded.on('response', (told) => {
      answer.writeHead(told.statusCode, told.headers);
      told.pipe(answer);
    });
    forwarded.on('error', () => answer.destroy());
    asked.pipe(forwarded);
  });
  server.on('upgrade', (asked, socket) => {
    const forwarded = forward(asked);
    if (forwarded === null) {
      socket.destroy();
      return;
    }
    forwarded.on('upgrade', (told, upstream, first) => {
      const lines = Object.entries(told.headers).map(([name, value]) => `${name}: ${value}\r\n`);
      socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join('')}\r\n`);
      socket.write(first);
      upstream.pipe(socket).pipe(upstream);
      for (const end of [socket, upstream])
        end.on('error', () => [socket, upstream].map((one) => one.destroy()));
    });
    forwarded.on('response', () => socket.destroy());
    forwarded.on('error', () => socket.destroy());
    forwarded.end();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}${prefix}`,
    stop: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}
