/** Server-Sent Events from bytes, without any I/O. */
import { UnexpectedAnswer } from './errors.js';

/** The longest event, characters. The gateway's are far shorter; a peer that never ends one is no gateway. */
export const MAX_EVENT = 4 << 20;

export interface ServerEvent {
  name: string;
  data: string;
}

/** Bytes in any pieces in, whole events out. Comments and fields it does not know are passed over. */
export class Decoder {
  readonly #utf8 = new TextDecoder();
  #rest = '';
  #name = '';
  #data: string[] = [];
  #size = 0;

  *feed(chunk: Uint8Array): Generator<ServerEvent> {
    // Lines end with LF or CRLF. A bare CR, which the standard also allows, no gateway sends.
    const lines = (this.#rest + this.#utf8.decode(chunk, { stream: true })).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) {
      const event = this.#line(line.endsWith('\r') ? line.slice(0, -1) : line);
      if (event !== undefined) yield event;
    }
    this.#bound(this.#rest.length);
  }

  #line(line: string): ServerEvent | undefined {
    if (line === '') {
      const event =
        this.#data.length > 0 ? { name: this.#name || 'message', data: this.#data.join('\n') } : undefined;
      this.#name = '';
      this.#data = [];
      this.#size = 0;
      return event;
    }
    this.#size += line.length;
    this.#bound(0);
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'event') this.#name = value;
    else if (field === 'data') this.#data.push(value);
    return undefined;
  }

  #bound(more: number): void {
    if (this.#size + more > MAX_EVENT) {
      throw new UnexpectedAnswer(`The gateway sent an event of more than ${MAX_EVENT} characters.`);
    }
  }
}
