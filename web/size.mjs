// How much a page loads before its terminal is there, compressed; fails if the element itself has grown too large.
import { readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

/** For everything but xterm.js. */
const MOST_BYTES = 25_000;
const DIST = fileURLToPath(new URL('./dist/', import.meta.url));

/** `file` and everything that it imports at once. What it imports late is somebody's who needs it. */
function loaded(file, files = new Map()) {
  if (files.has(file)) return files;
  const code = readFileSync(file, 'utf8');
  files.set(file, gzipSync(code, { level: 9 }).length);
  for (const [, path] of code.matchAll(
    /(?:^|[;}\s])(?:import|export)(?:[^'"();]*from)?\s*["'](\.[^"']+)["']/g,
  )) {
    loaded(join(dirname(file), path), files);
  }
  return files;
}

let own = 0;
let xterm = 0;
for (const [file, bytes] of loaded(join(DIST, 'embed.js'))) {
  const name = basename(file);
  if (name.startsWith('xterm-')) xterm += bytes;
  else own += bytes;
  console.log(`${String(bytes).padStart(7)}  ${name}`);
}
console.log(`${String(own).padStart(7)}  of ${MOST_BYTES} bytes (gzip) for the element without xterm.js`);
if (xterm === 0) throw new Error('xterm.js is no file of its own any more');
if (own > MOST_BYTES) throw new Error(`the element has ${own} bytes, at most ${MOST_BYTES} are good`);
