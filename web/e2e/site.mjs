// Somebody else's site: static pages at an origin of their own.
import { once } from 'node:events';
import { createServer } from 'node:http';

/** `pages`: HTML by path; `policy`: the site's content security policy. */
export async function startSite(pages = {}, policy = null) {
  const server = createServer(({ url }, answer) => {
    const page = pages[new URL(url, 'http://site').pathname];
    const headers = { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' };
    if (policy !== null) headers['content-security-policy'] = policy;
    answer.writeHead(page === undefined ? 404 : 200, headers).end(page ?? '');
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${server.address().port}`;
  return { url, pages, stop: () => server.close() };
}

/** A page whose body is `body`. */
export function page(body) {
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A tutorial</title>
<link rel="icon" href="data:,"></head><body><main><h1>A tutorial</h1>
${body}
</main></body></html>`;
}
