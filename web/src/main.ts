import { define } from './define.ts';
import { readShareLink } from './link.ts';
import { readSeal } from './seal.ts';

define(null);
const terminal = document.querySelector('belljar-terminal');
const note = document.querySelector<HTMLElement>('.seal');

const share = readShareLink(location.hash);
if (share === null) terminal?.start();
else terminal?.watch(share);
document.documentElement.toggleAttribute('data-guest', share !== null);
// Another link in the same tab is another page.
addEventListener('hashchange', () => location.reload());
terminal?.addEventListener('leave', () => {
  history.replaceState(null, '', location.pathname + location.search);
  document.documentElement.removeAttribute('data-guest');
});

/** Says how the sandboxes are sealed once the gateway has said so. Until then the page claims nothing. */
async function showSeal(): Promise<void> {
  if (note === null || note.textContent !== '') return;
  try {
    const response = await fetch(new URL('status', document.baseURI));
    const seal = response.ok ? readSeal(await response.json()) : null;
    if (seal === null) return;
    note.dataset.seal = seal;
    note.textContent = seal === 'sealed' ? 'Sealed in gVisor' : 'Development mode: not sealed';
  } catch {
    // The gateway is away. It is asked again when a terminal is ready.
  }
}

void showSeal();
terminal?.addEventListener('ready', () => void showSeal());

// A visitor with a keyboard wants to type. On a touch screen focus would cover half the page with keys.
if (matchMedia('(pointer: fine)').matches) terminal?.focus();
