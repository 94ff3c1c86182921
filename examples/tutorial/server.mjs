// The site's back end: serves the lesson, and signs a token for each visitor with the site's key. Node 20, nothing else.
//
//     PORT=8000 BELLJAR_URL=https://terminals.example.com BELLJAR_KEY=embed.pem BELLJAR_KID=6fd2c1a09b3e node server.mjs
//
// Without BELLJAR_KEY the page asks for no token, and the gateway must have the site in `allowed_origins`.
import { createPrivateKey, randomUUID, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

const { PORT = '8000', BELLJAR_URL, BELLJAR_KEY, BELLJAR_KID } = process.env;
const { ORIGIN = `http://localhost:${PORT}` } = process.env;
const key = BELLJAR_KEY === undefined ? null : createPrivateKey(readFileSync(BELLJAR_KEY));

/** How long a visitor may take from the page to the terminal, seconds. */
const TOKEN_S = 120;
/** How long the terminal may live, seconds. */
const LESSON_S = 900;

const read = (name) => readFileSync(new URL(name, import.meta.url), 'utf8');
let page = read('index.html');
if (BELLJAR_URL !== undefined) page = page.replaceAll('http://127.0.0.1:3001', BELLJAR_URL.replace(/\/$/, ''));
if (key !== null) page = page.replace('<body>', '<body data-token="token">');

/** Exactly these, whatever is asked for. */
const FILES = {
  '/': ['text/html; charset=utf-8', page],
  '/tutorial.js': ['text/javascript; charset=utf-8', read('tutorial.js')],
  '/tutorial.css': ['text/css; charset=utf-8', read('tutorial.css')],
};

/** What this visitor may do at the gateway, once: docs/configuration.md, "Embed tokens". */
function token() {
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    aud: 'belljar',
    iat: now,
    exp: now + TOKEN_S,
    jti: randomUUID(),
    origin: ORIGIN,
    template: 'base',
    max_duration: LESSON_S,
    metadata: { lesson: 'shell' },
  };
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
  const text = `${encode({ alg: 'EdDSA', typ: 'JWT', kid: BELLJAR_KID })}.${encode(claims)}`;
  return `${text}.${sign(null, Buffer.from(text), key).toString('base64url')}`;
}

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, ORIGIN);
  if (request.method !== 'GET') {
    response.writeHead(405, { allow: 'GET' }).end();
  } else if (pathname === '/token' && key !== null) {
    // A real site asks here who the visitor is, and puts that into `sub`.
    const headers = { 'content-type': 'application/json', 'cache-control': 'no-store' };
    response.writeHead(200, headers).end(JSON.stringify({ token: token() }));
  } else if (Object.hasOwn(FILES, pathname)) {
    const [type, content] = FILES[pathname];
    response.writeHead(200, { 'content-type': type, 'x-content-type-options': 'nosniff' }).end(content);
  } else {
    response.writeHead(404).end();
  }
});
server.listen(Number(PORT), '127.0.0.1', () => console.log(`The lesson is at ${ORIGIN}`));
