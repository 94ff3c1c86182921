/**
 * Buttons of a page that run a command in a terminal, without script of the page's own:
 *
 *     <pre id="step-1">ls -l</pre>
 *     <button data-belljar-run="#terminal" data-belljar-text="#step-1">Run</button>
 *
 * `data-belljar-run` selects the terminal; empty: the first of the page. Without `data-belljar-text` the button's
 * own words are run.
 */
import type { BelljarTerminal } from './terminal.ts';

/** Heeds the buttons below `root`, those too that come later. */
export function heedButtons(root: Document): void {
  root.addEventListener('click', ({ target }) => {
    if (!(target instanceof Element)) return;
    const button = target.closest<HTMLElement>('[data-belljar-run]');
    if (button === null) return;
    const terminal = root.querySelector(button.dataset.belljarRun || 'belljar-terminal');
    const source = button.dataset.belljarText;
    const text = (source ? root.querySelector(source) : button)?.textContent?.trim();
    if (!isTerminal(terminal) || !text) {
      console.warn('belljar: this button names no terminal, or no text to run', button);
      return;
    }
    terminal.run(text);
    terminal.focus();
  });
}

/** By its method: another copy of this file may have defined the element. */
function isTerminal(element: Element | null): element is BelljarTerminal {
  return element !== null && 'run' in element && typeof element.run === 'function';
}
