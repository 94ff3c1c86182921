import { heedButtons } from './runner.ts';
import { BelljarTerminal } from './terminal.ts';

const NAME = 'belljar-terminal';

/** Makes `<belljar-terminal>` known to the page. `gateway`: where terminals are that have no `src`. */
export function define(gateway: string | null): void {
  // Two scripts that bring it are one too many, and no harm.
  if (customElements.get(NAME) !== undefined) return;
  BelljarTerminal.gateway = gateway;
  customElements.define(NAME, BelljarTerminal);
  heedButtons(document);
}
