/** `sb.commands`: programs without a terminal. */
import { type CallOptions, type Client, defined, segment } from './client.js';
import { ConnectionFailed, NotFound, UnexpectedAnswer } from './errors.js';
import { CommandEvents } from './events.js';
import {
  type CommandEvent,
  type CommandResult,
  type Exit,
  type ProcessInfo,
  type ProcessOutput,
  parseOutput,
  parseProcess,
  parseResult,
} from './models.js';
import { pieces } from './socket.js';
import { EventStream } from './stream.js';

/** What the gateway takes where a command names no timeout, seconds. */
export const DEFAULT_TIMEOUT = 60;

/** A line for the sandbox's shell, or a program and its arguments, without any shell. */
export type Command = string | readonly string[];

export interface CommandOptions extends CallOptions {
  env?: Record<string, string> | undefined;
  cwd?: string | undefined;
  /** Seconds; what runs longer is ended, with exit code 124. */
  timeout?: number | undefined;
  /** What the program reads. */
  stdin?: string | undefined;
}

export interface StartOptions extends Omit<CommandOptions, 'stdin'> {
  /** Whether it is written to later; else it reads nothing. */
  stdin?: boolean | undefined;
}

export class Commands {
  readonly #client: Client;
  readonly #sandbox: string;

  constructor(client: Client, sandbox: string) {
    this.#client = client;
    this.#sandbox = sandbox;
  }

  /**
   * Runs a command to its end. Of each stream at most 1 MiB is kept: see `truncated`. Aborting ends the command. A
   * request may be 64 KiB long: what is longer belongs into a file, or is typed into a process (`start`).
   */
  async run(command: Command, options: CommandOptions = {}): Promise<CommandResult> {
    const json = body('wait', command, options);
    const patience = options.timeout ?? DEFAULT_TIMEOUT;
    return parseResult(
      await this.#client.json('POST', this.#path, { json, patience, signal: options.signal }),
    );
  }

  /**
   * Runs a command and gives its output as it comes, and last its exit. Nothing is lost: a program that writes
   * faster than it is read has to wait. Leaving the loop ends the command.
   */
  stream(command: Command, options: CommandOptions = {}): EventStream<CommandEvent> {
    const json = body('stream', command, options);
    const headers = { Accept: 'text/event-stream' };
    const patience = options.timeout ?? DEFAULT_TIMEOUT;
    return new EventStream(
      (_, signal) => this.#client.open('POST', this.#path, { json, headers, patience, signal }),
      new CommandEvents(),
      { signal: options.signal },
    );
  }

  /**
   * Starts a command in the background. It runs until it ends, is killed, or the sandbox ends; without a timeout
   * there is no other end.
   */
  async start(command: Command, options: StartOptions = {}): Promise<Process> {
    const { signal } = options;
    const json = body('background', command, options);
    const undo = (answer: unknown) => this.connect(processOf(answer)).kill();
    return this.connect(processOf(await this.#client.json('POST', this.#path, { json, signal, undo })));
  }

  /** What runs in the sandbox by `start`, `run` and `stream`, and what of it has ended lately. */
  async list(options: CallOptions = {}): Promise<ProcessInfo[]> {
    const path = `/sandboxes/${this.#sandbox}/processes`;
    return (await this.#client.array('GET', path, options)).map(parseProcess);
  }

  /** The process of this number, as another program may have started it. */
  connect(process: number): Process {
    return new Process(this.#client, this.#sandbox, process);
  }

  get #path(): string {
    return `/sandboxes/${this.#sandbox}/commands`;
  }
}

/**
 * A command in the background. Its newest 256 KiB of output are kept, both streams in order of their arrival,
 * addressed by one offset in bytes.
 */
export class Process {
  readonly id: number;
  readonly #client: Client;
  readonly #path: string;

  constructor(client: Client, sandbox: string, id: number) {
    this.id = id;
    this.#client = client;
    this.#path = `/sandboxes/${sandbox}/processes/${segment(id)}`;
  }

  async info(options: CallOptions = {}): Promise<ProcessInfo> {
    return parseProcess(await this.#client.json('GET', this.#path, options));
  }

  /** What it has said so far, from an offset on, up to 1 MiB. */
  async read(options: CallOptions & { from?: number } = {}): Promise<ProcessOutput> {
    const { from = 0, signal } = options;
    const query = { from, follow: false };
    return parseOutput(await this.#client.json('GET', `${this.#path}/output`, { query, signal }));
  }

  /**
   * Its output from an offset on, as it comes, and last its exit. What is not kept any more is a gap. A connection
   * that breaks is made anew and goes on where it was.
   */
  output(options: CallOptions & { from?: number } = {}): EventStream<CommandEvent> {
    const { from = 0, signal } = options;
    const headers = { Accept: 'text/event-stream' };
    return new EventStream(
      (position, signal) => {
        const query = { from: position, follow: true };
        return this.#client.open('GET', `${this.#path}/output`, { query, headers, signal });
      },
      new CommandEvents(from),
      { signal, retries: this.#client.retries },
    );
  }

  /** How it ended, once it has. */
  async wait(options: CallOptions = {}): Promise<Exit> {
    const info = await this.info(options);
    if (info.exit !== undefined) return info.exit;
    for await (const event of this.output({ ...options, from: info.outputEnd })) {
      if (event.type === 'exit') return event;
    }
    throw new ConnectionFailed('The output ended before the process did.');
  }

  /** Sends a signal, `15` or `'TERM'`, to the process and what it started. */
  async signal(signal: number | string, options: CallOptions = {}): Promise<void> {
    await this.#post('signal', { ...options, json: { signal } });
  }

  /** Ends the process and what it started. That it has ended already is all right. */
  async kill(options: CallOptions = {}): Promise<void> {
    try {
      await this.#client.open('DELETE', this.#path, options);
    } catch (error) {
      if (!(error instanceof NotFound && ['', 'not_found', 'no_process'].includes(error.code))) throw error;
    }
  }

  /** Types into a process that was started with `stdin: true`. */
  async writeStdin(data: string | Uint8Array, options: CallOptions = {}): Promise<void> {
    for (const content of pieces(data)) await this.#post('stdin', { ...options, content, headers: BYTES });
  }

  /** Ends its input: it reads an end of file. */
  async closeStdin(options: CallOptions = {}): Promise<void> {
    await this.#post('stdin', { ...options, query: { eof: true }, content: '', headers: BYTES });
  }

  async #post(what: string, options: Parameters<Client['open']>[2]): Promise<void> {
    await this.#client.open('POST', `${this.#path}/${what}`, options);
  }
}

const BYTES = { 'Content-Type': 'application/octet-stream' };

function body(mode: string, command: Command, options: CommandOptions | StartOptions): object {
  const { env, cwd, timeout } = options;
  return defined({
    mode,
    command,
    env,
    cwd,
    timeout,
    stdin: options.stdin === false ? undefined : options.stdin,
  });
}

function processOf(answer: unknown): number {
  const { process } = (answer ?? {}) as { process?: number | { id?: number } };
  const id = typeof process === 'object' ? process?.id : process;
  if (typeof id !== 'number') throw new UnexpectedAnswer('The gateway did not say which process it started.');
  return id;
}
