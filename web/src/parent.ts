/** How the page around a frame asks its terminal for something, and hears how it is: by `postMessage`. */
import type { State } from './connection.ts';
import type { BelljarTerminal } from './terminal.ts';

/** Longest text to run or paste, in UTF-16 units. */
const MAX_TEXT = 64 * 1024;

export type Request = { belljar: 'run' | 'paste'; text: string } | { belljar: 'focus' | 'restart' | 'state' };

/** What a message asks for; `null`: it is not for us. */
export function readRequest(data: unknown): Request | null {
  if (typeof data !== 'object' || data === null) return null;
  const { belljar, text } = data as Record<string, unknown>;
  switch (belljar) {
    case 'focus':
    case 'restart':
    case 'state':
      return { belljar };
    case 'run':
    case 'paste':
      return typeof text === 'string' && text.length <= MAX_TEXT ? { belljar, text } : null;
    default:
      return null;
  }
}

/**
 * Heeds the page around this one and no other window. Which pages may be that, `frame-ancestors` has decided. It is
 * told the state from its first message on, at the origin that this came from.
 */
export function heedParent(terminal: BelljarTerminal): void {
  const { parent } = window;
  if (parent === window) return;
  let origin: string | null = null;
  const tell = ({ name }: State) => {
    if (origin !== null) parent.postMessage({ belljar: 'state', state: name }, origin);
  };
  terminal.addEventListener('state', () => tell(terminal.state));
  addEventListener('message', (message) => {
    if (message.source !== parent || message.origin === 'null') return;
    const request = readRequest(message.data);
    if (request === null) return;
    origin = message.origin;
    switch (request.belljar) {
      case 'run':
        terminal.run(request.text);
        break;
      case 'paste':
        terminal.paste(request.text);
        break;
      case 'focus':
        terminal.focus();
        break;
      case 'restart':
        terminal.restart();
        break;
      case 'state':
        tell(terminal.state);
        break;
    }
  });
}
