/** What can go wrong. Every error of this package is a `BelljarError`. */

export interface ErrorDetails {
  code?: string | undefined;
  status?: number | undefined;
  retryAfter?: number | undefined;
  cause?: unknown;
}

export class BelljarError extends Error {
  /** The gateway's stable name of what happened (`at_capacity`), empty if it named none. */
  readonly code: string;
  /** The HTTP status, if there was an answer. */
  readonly status: number | undefined;
  /** Seconds to wait before it may work, if the gateway said so. */
  readonly retryAfter: number | undefined;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, 'cause' in details ? { cause: details.cause } : undefined);
    this.name = new.target.name;
    this.code = details.code ?? '';
    this.status = details.status;
    this.retryAfter = details.retryAfter;
  }
}

/** No key (401), or one that may not do this (403). */
export class AuthError extends BelljarError {}
/** There is no such sandbox, process, terminal, template or file, or it is not yours. */
export class NotFound extends BelljarError {}
/** It cannot be done as things are now (409). */
export class Conflict extends BelljarError {}
/** What should be made is there already. */
export class AlreadyExists extends Conflict {}
/** The sandbox is stopped, or has ended. */
export class NotRunning extends Conflict {}
/** A field or a value that the gateway does not take. */
export class InvalidRequest extends BelljarError {}
/** More bytes than the gateway or the sandbox's disk takes. */
export class TooLarge extends BelljarError {}
/** The sandbox's own kernel refused: no permission, not a directory, not empty, …; see `code`. */
export class FileError extends BelljarError {}
/** Too many requests (429); see `retryAfter`. */
export class RateLimited extends BelljarError {}
/** The gateway, or what it stands on, has a fault (5xx). */
export class ServerError extends BelljarError {}
/** Every place for a sandbox is taken; see `retryAfter`. */
export class AtCapacity extends ServerError {}
/** The gateway could not be reached, or the connection broke before the end. */
export class ConnectionFailed extends BelljarError {}
/** The gateway took longer than the client's `timeout`. */
export class RequestTimeout extends ConnectionFailed {}
/** An answer that is not what the protocol says, as from a proxy in between. */
export class UnexpectedAnswer extends BelljarError {}

/** A command ended with another code than 0. Only `check` throws it. */
export class CommandFailed extends BelljarError {
  readonly result: unknown;

  constructor(message: string, result: unknown) {
    super(message, { code: 'command_failed' });
    this.result = result;
  }
}

type Kind = new (message: string, details?: ErrorDetails) => BelljarError;

// What the sandbox's file system says, with whatever status it comes.
const BY_CODE = new Map<string, Kind>([
  ['already_exists', AlreadyExists],
  ['at_capacity', AtCapacity],
  ['bad_path', FileError],
  ['io', FileError],
  ['is_a_directory', FileError],
  ['no_space', TooLarge],
  ['not_a_directory', FileError],
  ['not_empty', FileError],
  ['not_a_file', FileError],
  ['not_found', NotFound],
  ['not_running', NotRunning],
  ['permission_denied', FileError],
  ['read_only', FileError],
  ['too_large', TooLarge],
]);
const BY_STATUS = new Map<number, Kind>([
  [401, AuthError],
  [403, AuthError],
  [404, NotFound],
  [409, Conflict],
  [410, NotFound],
  [413, TooLarge],
  [429, RateLimited],
  [507, TooLarge],
]);

/** The error that an answer of this status stands for. `problem` is its body, if that was JSON. */
/** @internal */
export function ofProblem(status: number, problem: unknown, retryAfter?: number): BelljarError {
  const fields: Record<string, unknown> =
    typeof problem === 'object' && problem !== null ? { ...problem } : {};
  const text = (...names: string[]) =>
    names.map((name) => fields[name]).find((value) => typeof value === 'string' && value !== '') as
      | string
      | undefined;
  const told = fields.retryAfter;
  const code = text('error', 'code') ?? '';
  const Type = BY_CODE.get(code) ?? BY_STATUS.get(status) ?? (status >= 500 ? ServerError : InvalidRequest);
  return new Type(text('detail', 'message', 'title') ?? `The gateway answered ${status}.`, {
    code,
    status,
    retryAfter: retryAfter ?? (typeof told === 'number' && told >= 0 ? told : undefined),
  });
}
