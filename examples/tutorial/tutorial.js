// Run buttons, and a tick for each step whose result stands on the screen. Nothing here knows how the terminal works:
// it uses two methods of the element, run() and text(), and two of its events.

/** How often the screen is looked at, ms. */
const LOOK_MS = 400;

const terminal = document.querySelector('belljar-terminal');
const steps = [...document.querySelectorAll('li[data-expect]')];
const progress = document.querySelector('#progress');

for (const step of steps) {
  const snippet = step.querySelector('pre code');
  if (snippet === null) continue;
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Run';
  button.setAttribute('aria-label', `Run: ${step.querySelector('h2').textContent}`);
  button.addEventListener('click', () => {
    terminal.run(snippet.textContent);
    // On a touch screen focus would cover half of the page with keys.
    if (matchMedia('(pointer: fine)').matches) terminal.focus();
  });
  snippet.parentElement.append(button);
}

/** Ticks what is done. The patterns are of whole lines of output, which the line that was typed is not. */
function check() {
  const text = terminal.text();
  for (const step of steps) {
    if (step.classList.contains('done') || !new RegExp(step.dataset.expect, 'mu').test(text)) continue;
    step.classList.add('done');
    const tick = document.createElement('span');
    tick.className = 'tick';
    tick.textContent = 'Done';
    step.querySelector('h2').append(' ', tick);
  }
  const done = steps.filter((step) => step.classList.contains('done')).length;
  const told = done === steps.length ? 'All steps done. Well done!' : `${done} of ${steps.length} steps done`;
  // Said again, it would be read out again.
  if (progress.textContent !== told) progress.textContent = told;
  if (done === steps.length) clearInterval(looking);
}

let looking;
terminal.addEventListener('ready', () => {
  clearInterval(looking);
  looking = setInterval(check, LOOK_MS);
});

/** A token counts once, so each session needs a new one. */
async function fetchToken() {
  const { token: address } = document.body.dataset;
  if (address === undefined) return;
  const answer = await fetch(address);
  if (answer.ok) terminal.setAttribute('token', (await answer.json()).token);
}
terminal.addEventListener('exit', fetchToken);

await Promise.all([customElements.whenDefined('belljar-terminal'), fetchToken()]);
terminal.start();
