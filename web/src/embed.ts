/**
 * `/embed.js`: the element for pages of other sites, with which two lines are enough.
 *
 *     <script type="module" src="https://terminals.example.com/embed.js"></script>
 *     <belljar-terminal></belljar-terminal>
 *
 * This file is small and asked for anew each time; what it imports is named by its content, loaded side by side
 * and kept for good.
 */
// Named here too, so that a browser learns of the largest file now and not from the next one.
import '@xterm/xterm';
import { define } from './define.ts';

export { BelljarTerminal } from './terminal.ts';

// The gateway is where this file comes from. In two steps, or the bundler takes it for an asset of its own.
const here = import.meta.url;
define(new URL('.', here).href);
