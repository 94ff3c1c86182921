/** The package: importing it defines `<belljar-terminal>`. */
import { define } from './define.ts';

export type { End, State } from './connection.ts';
export type { Exit, Ready, Refusal } from './protocol.ts';
export type { Theme } from './settings.ts';
export { BelljarTerminal, type TerminalEvents } from './terminal.ts';

define(null);
