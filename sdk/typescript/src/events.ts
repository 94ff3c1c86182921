/** Server-sent events as the events of commands and of files, without any I/O. */
import { type BelljarError, ofProblem, UnexpectedAnswer } from './errors.js';
import { type CommandEvent, Fields, type FileChange, parseChange, parseExit } from './models.js';
import { Decoder, type ServerEvent } from './sse.js';

/** What a stream makes of its bytes. */
export interface Events<E> {
  /** Where the next connection has to go on, if it can at all. */
  readonly position: number | undefined;
  /** Nothing comes after this. */
  readonly ended: boolean;
  feed(chunk: Uint8Array): Iterable<E>;
  /** The bytes that follow are those of another connection. */
  reconnected(): void;
}

/** The output of a command. `position` is the offset of its first byte, if it has offsets. */
export class CommandEvents implements Events<CommandEvent> {
  position: number | undefined;
  ended = false;
  #sse = new Decoder();
  #text = { stdout: utf8(), stderr: utf8() };

  readonly #resumable: boolean;

  constructor(position?: number) {
    this.position = position;
    this.#resumable = position !== undefined;
  }

  reconnected(): void {
    this.#sse = new Decoder();
  }

  *feed(chunk: Uint8Array): Generator<CommandEvent> {
    for (const event of this.#sse.feed(chunk)) yield* this.#event(event);
  }

  *#event(event: ServerEvent): Generator<CommandEvent> {
    switch (event.name) {
      case 'stdout':
      case 'stderr':
        yield this.#output(event.name, fieldsOf(event));
        break;
      case 'start': {
        const process = fieldsOf(event).number('process');
        // Of a process that is only listened to it says nothing new.
        if (process !== undefined && !this.#resumable) yield { type: 'start', process };
        break;
      }
      case 'gap': {
        const fields = fieldsOf(event);
        const [start, end] = [fields.number('from'), fields.number('to')];
        if (start === undefined || end === undefined) break;
        this.position = end;
        // What was split by the gap stays split.
        this.#text = { stdout: utf8(), stderr: utf8() };
        yield { type: 'gap', start, end };
        break;
      }
      case 'exit':
        for (const type of ['stdout', 'stderr'] as const) {
          const text = this.#text[type].decode();
          if (text !== '') yield { type, data: new Uint8Array(), text, end: this.position };
        }
        this.ended = true;
        yield parseExit(parse(event));
        break;
      case 'error':
        throw errorOf(event);
    }
  }

  #output(type: 'stdout' | 'stderr', fields: Fields): CommandEvent {
    const data = dataOf(fields);
    const end = fields.number('offset');
    if (this.#resumable) this.position = end;
    return { type, data, text: this.#text[type].decode(data, { stream: true }), end };
  }
}

/** What happens to watched files. A watch that broke cannot go on where it was. */
export class FileChanges implements Events<FileChange> {
  readonly position = undefined;
  readonly ended = false;
  #sse = new Decoder();

  reconnected(): void {
    this.#sse = new Decoder();
  }

  *feed(chunk: Uint8Array): Generator<FileChange> {
    for (const event of this.#sse.feed(chunk)) {
      if (event.name === 'error') throw errorOf(event);
      const change = parseChange(event.name, parse(event));
      if (change !== undefined) yield change;
    }
  }
}

// A byte order mark is a program's output like any other.
const utf8 = () => new TextDecoder('utf-8', { ignoreBOM: true });

function parse(event: ServerEvent): unknown {
  try {
    return JSON.parse(event.data);
  } catch (error) {
    throw new UnexpectedAnswer(`The gateway sent an event "${event.name}" that is not JSON.`, {
      cause: error,
    });
  }
}

function fieldsOf(event: ServerEvent): Fields {
  return new Fields(parse(event), `the data of an event "${event.name}"`);
}

function dataOf(fields: Fields): Uint8Array {
  const text = fields.text('data');
  if (text !== undefined) return new TextEncoder().encode(text);
  const encoded = fields.text('dataBase64');
  if (encoded === undefined) throw new UnexpectedAnswer('The gateway sent output without data.');
  try {
    return Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  } catch (error) {
    throw new UnexpectedAnswer('The gateway sent output that is not base64.', { cause: error });
  }
}

function errorOf(event: ServerEvent): BelljarError {
  const problem = parse(event);
  return ofProblem(new Fields(problem, 'an error').number('status') ?? 500, problem);
}
