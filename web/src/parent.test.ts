import { expect, it } from 'vitest';
import { readRequest } from './parent.ts';

it('the page around may ask for these', () => {
  expect(readRequest({ belljar: 'run', text: 'ls' })).toEqual({ belljar: 'run', text: 'ls' });
  expect(readRequest({ belljar: 'paste', text: '', more: 1 })).toEqual({ belljar: 'paste', text: '' });
  for (const belljar of ['focus', 'restart', 'state']) expect(readRequest({ belljar })).toEqual({ belljar });
});

it('and for nothing else', () => {
  const long = { belljar: 'run', text: 'x'.repeat(64 * 1024 + 1) };
  const messages = [
    null,
    'run',
    7,
    {},
    [],
    { belljar: 'close' },
    { belljar: 'run' },
    { belljar: 'run', text: 1 },
    long,
  ];
  for (const message of messages) expect(readRequest(message)).toBeNull();
});
