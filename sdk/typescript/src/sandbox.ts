/** A sandbox, from its start to its end. */
import { type CallOptions, Client, defined, segment } from './client.js';
import { Commands, DEFAULT_TIMEOUT } from './commands.js';
import { NotFound } from './errors.js';
import { Files } from './files.js';
import {
  type CommandResult,
  parseResult,
  parseSandbox,
  parseStats,
  type SandboxInfo,
  type SandboxStats,
} from './models.js';
import { Ports } from './ports.js';
import { Ptys } from './pty.js';

/** What a start may take beside a request's usual time, seconds: it may have to wait in line. */
const START = 60;

export interface WithClient extends CallOptions {
  /** Default: one from the environment. */
  client?: Client | undefined;
}

export interface CreateOptions extends WithClient {
  template?: string | undefined;
  image?: string | undefined;
  /** Seconds until it is ended. */
  timeout?: number | undefined;
  env?: Record<string, string> | undefined;
  metadata?: Record<string, string> | undefined;
  cpus?: number | undefined;
  /** MiB, or a text as `'512Mi'`. */
  memory?: number | string | undefined;
  cwd?: string | undefined;
}

export interface ListOptions extends WithClient {
  state?: string | undefined;
  template?: string | undefined;
  metadata?: Record<string, string> | undefined;
  limit?: number | undefined;
}

export interface CodeOptions extends CallOptions {
  env?: Record<string, string> | undefined;
  /** Seconds. */
  timeout?: number | undefined;
}

/** A sealed Linux environment. `create` and `connect` make one; `await using` kills it at the end of its block. */
export class Sandbox {
  readonly id: string;
  readonly client: Client;
  readonly commands: Commands;
  readonly files: Files;
  readonly pty: Ptys;
  readonly ports: Ports;
  readonly #path: string;
  readonly #killAtExit: boolean;

  private constructor(client: Client, info: SandboxInfo, killAtExit: boolean) {
    const path = segment(info.id);
    this.id = info.id;
    this.client = client;
    this.commands = new Commands(client, path);
    this.files = new Files(client, path);
    this.pty = new Ptys(client, path);
    this.ports = new Ports(client, path);
    this.#path = `/sandboxes/${path}`;
    this.#killAtExit = killAtExit;
  }

  /** Starts a sandbox from a template or an image. If it is aborted meanwhile, what was started is killed. */
  static async create(options: CreateOptions = {}): Promise<Sandbox> {
    const { template, image, timeout, env, metadata, cpus, memory, cwd, signal } = options;
    const client = options.client ?? new Client();
    const size = typeof memory === 'string' ? { memory } : { memoryMB: memory };
    const undo = (answer: unknown) => new Sandbox(client, parseSandbox(answer), false).kill();
    const answer = await client.json('POST', '/sandboxes', {
      json: defined({ template, image, timeout, env, metadata, cpus, cwd, ...size }),
      // With a key of its own it can be repeated: the gateway starts one sandbox for it.
      headers: { 'Idempotency-Key': uuid() },
      repeatable: true,
      patience: START,
      signal,
      undo,
    });
    return new Sandbox(client, parseSandbox(answer), true);
  }

  /** A sandbox that is there already. `await using` lets it run on. */
  static async connect(id: string, options: WithClient = {}): Promise<Sandbox> {
    const { client = new Client(), signal } = options;
    const answer = await client.json('GET', `/sandboxes/${segment(id)}`, { signal });
    return new Sandbox(client, parseSandbox(answer), false);
  }

  /** Your sandboxes: all, or those in a state, of a template, with this metadata; at most `limit`. */
  static async list(options: ListOptions = {}): Promise<SandboxInfo[]> {
    const { state, template, metadata = {}, limit, client = new Client(), signal } = options;
    const filters = Object.entries(metadata).map(([name, value]) => [`metadata.${name}`, value] as const);
    const query = { state, template, ...Object.fromEntries(filters) };
    return (await client.pages('/sandboxes', query, limit, { signal })).map(parseSandbox);
  }

  async info(options: CallOptions = {}): Promise<SandboxInfo> {
    return parseSandbox(await this.client.json('GET', this.#path, options));
  }

  async stats(options: CallOptions = {}): Promise<SandboxStats> {
    return parseStats(await this.client.json('GET', `${this.#path}/stats`, options));
  }

  /** Ends the sandbox in so many seconds from now, instead of when it would have. */
  async setTimeout(timeout: number, options: CallOptions = {}): Promise<void> {
    const request = { ...options, json: { timeout }, repeatable: true };
    await this.client.open('POST', `${this.#path}/timeout`, request);
  }

  /** Runs a program's text: `python`, `node`, `bash`, and what the template has besides. */
  async runCode(code: string, language = 'python', options: CodeOptions = {}): Promise<CommandResult> {
    const { env, timeout, signal } = options;
    const json = defined({ code, language, env, timeout });
    const patience = timeout ?? DEFAULT_TIMEOUT;
    return parseResult(await this.client.json('POST', `${this.#path}/code`, { json, patience, signal }));
  }

  /** Ends its programs and frees its place. Its files are in memory: they are gone. */
  async stop(options: CallOptions = {}): Promise<SandboxInfo> {
    return this.#action('stop', options);
  }

  /** Starts it afresh, under the same id and without its files. */
  async restart(options: CallOptions = {}): Promise<SandboxInfo> {
    return this.#action('restart', options);
  }

  /** Ends the sandbox and all that is in it. That it has ended already is all right. */
  async kill(options: CallOptions = {}): Promise<void> {
    try {
      await this.client.open('DELETE', this.#path, options);
    } catch (error) {
      if (!(error instanceof NotFound)) throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#killAtExit) await this.kill();
  }

  async #action(action: string, options: CallOptions): Promise<SandboxInfo> {
    const request = { ...options, json: { action }, patience: START };
    return parseSandbox(await this.client.json('POST', `${this.#path}/actions`, request));
  }
}

/** `crypto.randomUUID` is missing on pages without TLS. */
function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
