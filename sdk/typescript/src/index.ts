/** Sealed Linux sandboxes, by API: a client for Belljar. */
export {
  type CallOptions,
  Client,
  type ClientOptions,
  type Content,
  type Templates,
} from './client.js';
export type { Command, CommandOptions, Commands, Process, StartOptions } from './commands.js';
export {
  AlreadyExists,
  AtCapacity,
  AuthError,
  BelljarError,
  CommandFailed,
  Conflict,
  ConnectionFailed,
  FileError,
  InvalidRequest,
  NotFound,
  NotRunning,
  RateLimited,
  RequestTimeout,
  ServerError,
  TooLarge,
  UnexpectedAnswer,
} from './errors.js';
export type { Files, ReadOptions, Source, WriteOptions } from './files.js';
export {
  type CommandEvent,
  type CommandResult,
  check,
  type Exit,
  type FileChange,
  type FileInfo,
  type Gap,
  type Output,
  type ProcessInfo,
  type ProcessOutput,
  type SandboxInfo,
  type SandboxStats,
  type Started,
  type Template,
} from './models.js';
export type { Ports } from './ports.js';
export type { Pty, PtyOptions, Ptys } from './pty.js';
export {
  type CodeOptions,
  type CreateOptions,
  type ListOptions,
  Sandbox,
  type WithClient,
} from './sandbox.js';
export type { SocketConstructor, SocketLike } from './socket.js';
export type { EventStream } from './stream.js';
