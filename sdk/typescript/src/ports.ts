/** `sb.ports`: servers inside the sandbox. */
import { API, type Client } from './client.js';

/**
 * The gateway proxies HTTP and WebSockets to ports of the sandbox's loopback. Requests to these addresses need the
 * same key as all others: see `headers`.
 */
export class Ports {
  readonly #client: Client;
  readonly #path: string;

  constructor(client: Client, sandbox: string) {
    this.#client = client;
    this.#path = `${API}/sandboxes/${sandbox}/ports`;
  }

  /** Where a server on this port is reached. */
  url(port: number, path = '/'): string {
    if (!Number.isInteger(port) || port < 1 || port > 65535) {
      throw new RangeError('port: must be between 1 and 65535');
    }
    return `${this.#client.url}${this.#path}/${port}/${encodeURI(path.replace(/^\/+/, ''))}`;
  }

  webSocketUrl(port: number, path = '/'): string {
    return `ws${this.url(port, path).slice('http'.length)}`;
  }

  /** What a request to these addresses has to carry. */
  get headers(): Record<string, string> {
    return this.#client.headers;
  }
}
