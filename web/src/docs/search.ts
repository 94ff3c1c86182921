/** Which operations are looked for. Pure. */
import { type Shape, shape } from './shape.ts';
import type { Document, Group, Operation } from './spec.ts';

/** All words of an operation that somebody may look for, in small letters. */
export function haystack(document: Document, operation: Operation): string {
  const { id, method, path, tag, summary, description, parameters, body } = operation;
  const words = [id, method, path, tag, summary, description];
  for (const { name, description = '' } of parameters) words.push(name, description);
  for (const { schema } of body?.media ?? []) {
    if (schema !== null) collect(shape(document, schema), words);
  }
  return words.join('\n').toLowerCase();
}

function collect({ fields, variants, values }: Shape, words: string[]): void {
  words.push(...values);
  for (const { name, shape } of fields) {
    words.push(name, shape.description);
    collect(shape, words);
  }
  for (const variant of variants) collect(variant, words);
}

/** The groups with the operations that hold every word of `query`; the empty query finds all. */
export function found(all: Group[], haystacks: ReadonlyMap<string, string>, query: string): Group[] {
  const words = query
    .toLowerCase()
    .split(/\s+/)
    .filter((word) => word !== '');
  if (words.length === 0) return all;
  const holds = ({ id }: Operation) => words.every((word) => haystacks.get(id)?.includes(word) ?? false);
  return all
    .map((group) => ({ ...group, operations: group.operations.filter(holds) }))
    .filter(({ operations }) => operations.length > 0);
}
