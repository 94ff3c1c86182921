/** `unsealed`: a launcher for development, which isolates nothing. */
export type Seal = 'sealed' | 'unsealed';

/**
 * What `GET /status` says about the sandboxes. `null`: nothing that can be relied on. A gateway whose engine is
 * away cannot vouch for its sandboxes, which does not make it one for development.
 */
export function readSeal(status: unknown): Seal | null {
  if (typeof status !== 'object' || status === null) return null;
  const { sealed, isOpen } = status as Record<string, unknown>;
  if (sealed === true) return 'sealed';
  return sealed === false && isOpen === true ? 'unsealed' : null;
}
