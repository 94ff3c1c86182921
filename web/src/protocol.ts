/**
 * The messages of `belljar.v1`: JSON in text frames, terminal bytes in binary frames.
 *
 * Offsets count output bytes since the terminal was opened. Unknown fields and unknown message types are
 * let through, so that an older page works with a newer gateway; a known type with a wrong field is refused,
 * because a misread offset would silently corrupt the screen.
 */

export const SUBPROTOCOL = 'belljar.v1';

/** WebSocket close codes that end a session for this client (RFC 6455 §7.4.2 leaves 4000-4999 to us). */
export const CLOSE = {
  takenOver: 4001,
  refused: 4003,
  noSuchSession: 4004,
  idleTimeout: 4008,
  maxDuration: 4009,
  rateLimited: 4029,
  atCapacity: 4030,
} as const;

export type ClientMessage =
  | { type: 'attach'; token?: string; from?: number; cols: number; rows: number }
  | { type: 'resize'; cols: number; rows: number }
  | { type: 'ack'; offset: number }
  | { type: 'extend' }
  | { type: 'ping'; id: number }
  | { type: 'close' };

export interface Ready {
  type: 'ready';
  session: string;
  /** The resume token. Absent when the client already holds it, or when it may only watch. */
  token?: string;
  /** The offset of the first byte that follows on this socket. */
  offset: number;
  /** The offset after the newest byte at this moment. `null`: the gateway is too old to say. */
  end: number | null;
  cols: number;
  rows: number;
  readOnly: boolean;
  /** Whether the session is being recorded. */
  recorded: boolean;
  /** `null`: the session does not idle out. */
  idleTimeoutMs: number | null;
  /** `null`: the session has no longest duration. */
  remainingMs: number | null;
  /** Unacknowledged bytes that the gateway sends before it waits. */
  window: number;
}

export interface Notice {
  type: 'notice';
  code: string;
  message: string;
  remainingMs: number | null;
}

export interface Exit {
  type: 'exit';
  code: number | null;
  signal: string | number | null;
  reason: string;
}

export interface Refusal {
  type: 'error';
  code: string;
  /** One calm sentence for the visitor. */
  message: string;
  retryAfterMs: number | null;
}

export type ServerMessage =
  | Ready
  | { type: 'queued'; position: number; etaMs: number | null }
  | { type: 'gap'; from: number; to: number }
  | Notice
  /** To guests: the owner has set another size. */
  | { type: 'size'; cols: number; rows: number }
  /** To the owner: so many guests are looking. */
  | { type: 'viewers'; count: number }
  | { type: 'pong'; id: number }
  | Exit
  | Refusal
  | { type: 'unknown'; name: string };

/** Says which field of which message was wrong. */
export class ProtocolError extends Error {}

export function encode(message: ClientMessage): string {
  return JSON.stringify(message);
}

/** Reads one text frame. Throws `ProtocolError`. */
export function parse(text: string): ServerMessage {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new ProtocolError('not JSON');
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw new ProtocolError('not an object');
  const fields = new Fields(json as Record<string, unknown>);
  const type = fields.string('type');
  switch (type) {
    case 'ready': {
      const session = fields.string('session');
      if (!SESSION.test(session)) throw new ProtocolError('ready.session: not a session id');
      const ready: Ready = {
        type,
        session,
        offset: fields.count('offset'),
        end: fields.optional('end', fields.count),
        cols: fields.count('cols'),
        rows: fields.count('rows'),
        readOnly: fields.boolean('readOnly'),
        recorded: fields.optional('recorded', fields.boolean) ?? false,
        idleTimeoutMs: fields.optional('idleTimeoutMs', fields.count),
        remainingMs: fields.optional('remainingMs', fields.count),
        window: fields.count('window'),
      };
      const token = fields.optional('token', fields.string);
      return token === null ? ready : { ...ready, token };
    }
    case 'queued':
      return { type, position: fields.count('position'), etaMs: fields.optional('etaMs', fields.count) };
    case 'gap': {
      const [from, to] = [fields.count('from'), fields.count('to')];
      if (to < from) throw new ProtocolError('gap.to: before gap.from');
      return { type, from, to };
    }
    case 'notice':
      return {
        type,
        code: fields.string('code'),
        message: fields.string('message'),
        remainingMs: fields.optional('remainingMs', fields.count),
      };
    case 'size':
      return { type, cols: fields.count('cols'), rows: fields.count('rows') };
    case 'viewers':
      return { type, count: fields.count('count') };
    case 'pong':
      return { type, id: fields.count('id') };
    case 'exit':
      return {
        type,
        code: fields.optional('code', fields.integer),
        signal: fields.optional('signal', fields.signal),
        reason: fields.string('reason'),
      };
    case 'error':
      return {
        type,
        code: fields.string('code'),
        message: fields.string('message'),
        retryAfterMs: fields.optional('retryAfterMs', fields.count),
      };
    default:
      return { type: 'unknown', name: type };
  }
}

/** A session id stands in a URL path, so nothing that has a meaning there may be in it. */
const SESSION = /^[A-Za-z0-9_-]{1,128}$/;

class Fields {
  constructor(private readonly json: Record<string, unknown>) {}

  string = (name: string): string => {
    const value = this.json[name];
    if (typeof value !== 'string') throw this.wrong(name, 'a string');
    return value;
  };

  boolean = (name: string): boolean => {
    const value = this.json[name];
    if (typeof value !== 'boolean') throw this.wrong(name, 'true or false');
    return value;
  };

  integer = (name: string): number => {
    const value = this.json[name];
    if (!Number.isSafeInteger(value)) throw this.wrong(name, 'an integer');
    return value as number;
  };

  count = (name: string): number => {
    const value = this.integer(name);
    if (value < 0) throw this.wrong(name, 'zero or more');
    return value;
  };

  signal = (name: string): string | number =>
    typeof this.json[name] === 'string' ? this.string(name) : this.integer(name);

  /** A field that is absent or `null` is `null`. */
  optional<T>(name: string, read: (name: string) => T): T | null {
    return this.json[name] === undefined || this.json[name] === null ? null : read(name);
  }

  private wrong(name: string, expected: string): ProtocolError {
    const type = typeof this.json.type === 'string' ? this.json.type : 'message';
    return new ProtocolError(`${type}.${name}: must be ${expected}`);
  }
}
