/** `sb.pty`: programs on a terminal. */
import { type CallOptions, type Client, defined, segment } from './client.js';
import { NotFound, UnexpectedAnswer } from './errors.js';
import { Socket } from './socket.js';

export interface PtyOptions extends CallOptions {
  /** 80 */
  cols?: number | undefined;
  /** 24 */
  rows?: number | undefined;
  /** Default: the template's shell. */
  command?: string | readonly string[] | undefined;
  cwd?: string | undefined;
  env?: Record<string, string> | undefined;
}

/** Terminals of a sandbox. */
export class Ptys {
  readonly #client: Client;
  readonly #path: string;

  constructor(client: Client, sandbox: string) {
    this.#client = client;
    this.#path = `/sandboxes/${sandbox}/pty`;
  }

  /** Opens a terminal with a program on it. */
  async create(options: PtyOptions = {}): Promise<Pty> {
    const { cols = 80, rows = 24, command, cwd, env, signal } = options;
    const json = defined({ cols, rows, command, cwd, env });
    const undo = (answer: unknown) => this.#kill(idOf(answer));
    const id = idOf(await this.#client.json('POST', this.#path, { json, signal, undo }));
    try {
      return await this.connect(id, options);
    } catch (error) {
      await this.#kill(id).catch(() => undefined);
      throw error;
    }
  }

  /** A terminal that is there already, from its present output on. */
  async connect(id: string, options: CallOptions = {}): Promise<Pty> {
    const path = `${this.#path}/${segment(id)}`;
    return new Pty(this.#client, path, id, await Socket.open(this.#client, path, options.signal));
  }

  async #kill(id: string): Promise<void> {
    await this.#client.open('DELETE', `${this.#path}/${segment(id)}`);
  }
}

/** A terminal. Iterating over it gives the bytes of its output, until its program has ended. */
export class Pty implements AsyncIterable<Uint8Array> {
  readonly id: string;
  readonly #client: Client;
  readonly #path: string;
  readonly #socket: Socket;

  constructor(client: Client, path: string, id: string, socket: Socket) {
    this.id = id;
    this.#client = client;
    this.#path = path;
    this.#socket = socket;
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    for (let data = await this.#socket.receive(); data !== undefined; data = await this.#socket.receive()) {
      yield data;
    }
  }

  /** Types. */
  write(data: string | Uint8Array): void {
    this.#socket.send(data);
  }

  async resize(cols: number, rows: number, options: CallOptions = {}): Promise<void> {
    const request = { ...options, json: { cols, rows }, repeatable: true };
    await this.#client.open('POST', `${this.#path}/resize`, request);
  }

  /** Lets go of the terminal, and lets its program run on. */
  async close(): Promise<void> {
    await this.#socket.close();
  }

  /** Ends the terminal and its program. That it has ended already is all right. */
  async kill(options: CallOptions = {}): Promise<void> {
    await this.close();
    try {
      await this.#client.open('DELETE', this.#path, options);
    } catch (error) {
      if (!(error instanceof NotFound)) throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

function idOf(answer: unknown): string {
  const fields = (answer ?? {}) as { sessionID?: unknown; id?: unknown };
  const id = fields.sessionID ?? fields.id;
  if (typeof id !== 'string' && typeof id !== 'number') {
    throw new UnexpectedAnswer('The gateway did not say which terminal it opened.');
  }
  return String(id);
}
