// API keys for gateways that have some.
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BINARY } from './gateway.mjs';

/** Where a gateway finds the keys of this directory: `API__KEYS_FILE`. */
export const keysFile = (directory) => join(directory, 'keys.toml');

/** A key of this scope, added to the file. */
export function newKey(directory, scope) {
  const config = join(directory, 'belljar.toml');
  writeFileSync(config, `[api]\nkeys_file = ${JSON.stringify(keysFile(directory))}\n`);
  const args = ['key', 'new', '--config', config, '--name', 'test', '--scope', scope];
  const { PATH } = process.env;
  return execFileSync(BINARY, args, { env: { PATH } }).toString().trim().split('\n').at(-1);
}
