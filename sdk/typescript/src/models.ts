/** What the gateway says, as plain values. */
import { CommandFailed, UnexpectedAnswer } from './errors.js';

/** A sandbox as the gateway sees it. `timeout` is in seconds, `memoryMB` in MiB. */
export interface SandboxInfo {
  id: string;
  status: string;
  template: string | undefined;
  image: string | undefined;
  createdAt: Date | undefined;
  expiresAt: Date | undefined;
  metadata: Record<string, string>;
  cpus: number | undefined;
  memoryMB: number | undefined;
  cwd: string | undefined;
  timeout: number | undefined;
}

/** What a sandbox uses now. Undefined: it did not say. */
export interface SandboxStats {
  cpuMs: number | undefined;
  memoryBytes: number | undefined;
  memoryLimitBytes: number | undefined;
  processes: number | undefined;
  uptimeMs: number | undefined;
  homeUsed: number | undefined;
  homeSize: number | undefined;
  tmpUsed: number | undefined;
  tmpSize: number | undefined;
}

/** How a program ended: with a code, or by a signal. */
export interface Exit {
  type: 'exit';
  exitCode: number | undefined;
  signal: string | undefined;
  timedOut: boolean;
}

/** A command that has ended. `exitCode` is 124 if its timeout ended it. */
export interface CommandResult {
  stdout: string;
  stderr: string;
  exitCode: number | undefined;
  signal: string | undefined;
  timedOut: boolean;
  /** More than 1 MiB came from one of the streams: the rest is not here. */
  truncated: boolean;
}

/**
 * Bytes of a program's output. `text` is them decoded: a character that is split over two events is whole in the
 * later one. `end` is the output's offset after them, where it has one.
 */
export interface Output {
  type: 'stdout' | 'stderr';
  data: Uint8Array;
  text: string;
  end: number | undefined;
}

/** The command runs; `process` is its number in the sandbox. */
export interface Started {
  type: 'start';
  process: number;
}

/** Output that the sandbox did not keep: the offsets `start` to `end`, bytes. */
export interface Gap {
  type: 'gap';
  start: number;
  end: number;
}

export type CommandEvent = Started | Output | Gap | Exit;

/** A program in the sandbox. `outputStart` and `outputEnd` are the offsets of what is kept of its output. */
export interface ProcessInfo {
  id: number;
  pid: number | undefined;
  command: string;
  background: boolean;
  running: boolean;
  outputStart: number;
  outputEnd: number;
  exit: Exit | undefined;
}

/** What a process has said, from the offset `start` to `end`: to be read on from there. */
export interface ProcessOutput {
  stdout: string;
  stderr: string;
  start: number;
  end: number;
  exit: Exit | undefined;
}

/** A file or directory. `size` is in bytes, `mode` the permission bits. */
export interface FileInfo {
  name: string;
  path: string;
  kind: 'file' | 'directory' | 'symlink' | 'other';
  isDir: boolean;
  size: number;
  mode: number | undefined;
  modifiedAt: Date | undefined;
  target: string | undefined;
}

/**
 * What happened to a path, which was at `oldPath` before it was renamed. `overflow`: more happened than was kept,
 * look for yourself.
 */
export interface FileChange {
  type: 'created' | 'modified' | 'removed' | 'renamed' | 'overflow';
  path: string;
  oldPath: string | undefined;
  isDir: boolean;
}

/** What sandboxes can be started from. */
export interface Template {
  name: string;
  image: string | undefined;
  status: string | undefined;
}

/** The result itself, if the command ended with 0. Throws `CommandFailed` else. */
export function check(result: CommandResult): CommandResult {
  if (result.exitCode !== 0 || result.signal !== undefined) {
    const how = result.signal === undefined ? `code ${result.exitCode}` : `signal ${result.signal}`;
    throw new CommandFailed(`The command ended with ${how}.`, result);
  }
  return result;
}

/** The fields of a JSON object, taken for what they should be. */
export class Fields {
  readonly #fields: Record<string, unknown>;

  constructor(value: unknown, what: string) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new UnexpectedAnswer(`The gateway sent something else where ${what} should be.`);
    }
    this.#fields = value as Record<string, unknown>;
  }

  raw(name: string): unknown {
    return this.#fields[name];
  }

  text(name: string): string | undefined {
    const value = this.#fields[name];
    return typeof value === 'string' ? value : undefined;
  }

  number(name: string): number | undefined {
    const value = this.#fields[name];
    return typeof value === 'number' ? value : undefined;
  }

  time(name: string): Date | undefined {
    const date = new Date(this.text(name) ?? '');
    return Number.isNaN(date.getTime()) ? undefined : date;
  }

  moment(name: string): Date | undefined {
    const date = new Date(this.number(name) ?? Number.NaN);
    // A sandbox may date its files as it likes.
    return Number.isNaN(date.getTime()) ? undefined : date;
  }

  required<T>(name: string, value: T | undefined): T {
    if (value === undefined) throw new UnexpectedAnswer(`The gateway's answer has no proper "${name}".`);
    return value;
  }
}

export function parseSandbox(value: unknown): SandboxInfo {
  const fields = new Fields(value, 'a sandbox');
  const metadata = fields.raw('metadata');
  return {
    id: fields.required('id', fields.text('id')),
    status: fields.text('status') ?? 'running',
    template: fields.text('template'),
    image: fields.text('image'),
    createdAt: fields.time('createdAt'),
    expiresAt: fields.time('expiresAt'),
    metadata: typeof metadata === 'object' && metadata !== null ? { ...metadata } : {},
    cpus: fields.number('cpus'),
    memoryMB: fields.number('memoryMB'),
    cwd: fields.text('cwd'),
    timeout: fields.number('timeout'),
  };
}

export function parseStats(value: unknown): SandboxStats {
  const fields = new Fields(value, 'stats');
  return {
    cpuMs: fields.number('cpuMs'),
    memoryBytes: fields.number('memoryBytes'),
    memoryLimitBytes: fields.number('memoryLimitBytes'),
    processes: fields.number('processes'),
    uptimeMs: fields.number('uptimeMs'),
    homeUsed: fields.number('homeUsed'),
    homeSize: fields.number('homeSize'),
    tmpUsed: fields.number('tmpUsed'),
    tmpSize: fields.number('tmpSize'),
  };
}

export function parseExit(value: unknown): Exit {
  const fields = new Fields(value, 'an exit');
  const exit: Exit = {
    type: 'exit',
    exitCode: fields.number('exitCode'),
    signal: fields.text('signal'),
    timedOut: fields.raw('timedOut') === true,
  };
  if (exit.exitCode === undefined && exit.signal === undefined && !exit.timedOut) {
    throw new UnexpectedAnswer("The gateway's exit has neither a code nor a signal.");
  }
  return exit;
}

export function parseResult(value: unknown): CommandResult {
  const fields = new Fields(value, 'a result');
  const { exitCode, signal, timedOut } = parseExit(value);
  return {
    stdout: fields.required('stdout', fields.text('stdout')),
    stderr: fields.required('stderr', fields.text('stderr')),
    exitCode,
    signal,
    timedOut,
    truncated: fields.raw('truncated') === true,
  };
}

export function parseProcess(value: unknown): ProcessInfo {
  const fields = new Fields(value, 'a process');
  const exit = fields.raw('running') === true ? undefined : parseExit(value);
  return {
    id: fields.required('process', fields.number('process')),
    pid: fields.number('pid'),
    command: fields.text('command') ?? '',
    background: fields.raw('background') !== false,
    running: exit === undefined,
    outputStart: fields.number('outputStart') ?? 0,
    outputEnd: fields.number('outputEnd') ?? 0,
    exit,
  };
}

export function parseOutput(value: unknown): ProcessOutput {
  const fields = new Fields(value, 'output');
  return {
    stdout: fields.required('stdout', fields.text('stdout')),
    stderr: fields.required('stderr', fields.text('stderr')),
    start: fields.required('from', fields.number('from')),
    end: fields.required('offset', fields.number('offset')),
    exit: fields.raw('running') === true ? undefined : parseExit(value),
  };
}

const KINDS = ['file', 'directory', 'symlink', 'other'] as const;
const CHANGES = ['created', 'modified', 'removed', 'renamed', 'overflow'] as const;

export function parseFile(value: unknown): FileInfo {
  const fields = new Fields(value, 'a file');
  const kind =
    KINDS.find((kind) => kind === fields.raw('kind')) ??
    (fields.raw('isDir') === true ? 'directory' : 'file');
  const mode = fields.raw('mode');
  const octal = typeof mode === 'string' && /^[0-7]+$/.test(mode) ? Number.parseInt(mode, 8) : undefined;
  return {
    name: fields.required('name', fields.text('name')),
    path: fields.required('path', fields.text('path')),
    kind,
    isDir: kind === 'directory',
    size: fields.number('size') ?? 0,
    mode: octal ?? fields.number('mode'),
    modifiedAt: fields.moment('modifiedMs'),
    target: fields.text('target'),
  };
}

export function parseChange(name: string, value: unknown): FileChange | undefined {
  const fields = new Fields(value, 'a change');
  const type = CHANGES.find((type) => type === (fields.text('type') ?? name));
  if (type === undefined) return undefined;
  const isDir = fields.raw('isDir') === true;
  return { type, path: fields.text('path') ?? '', oldPath: fields.text('from'), isDir };
}

export function parseTemplate(value: unknown): Template {
  const fields = new Fields(value, 'a template');
  return {
    name: fields.required('name', fields.text('name')),
    image: fields.text('image'),
    status: fields.text('status'),
  };
}
