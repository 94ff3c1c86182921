import { describe, expect, it } from 'vitest';
import text from '../../../docs/openapi.json?raw';
import { example, sample } from './example.ts';
import { found, haystack } from './search.ts';
import { type Shape, shape } from './shape.ts';
import { type Document, groups, type Operation, root, type Schema } from './spec.ts';

/** What the gateway serves. */
const document = JSON.parse(text) as Document;
const all = groups(document);
const operations = all.flatMap((group) => group.operations);
const called = (id: string) => operations.find((one) => one.id === id) as Operation;

/** A description with these schemas, and the shape of one. */
function shaped(schemas: Record<string, Schema>, schema: Schema): Shape {
  return shape({ info: { title: '', version: '' }, paths: {}, components: { schemas } }, schema);
}
const ref = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` });

describe('operations', () => {
  it('are all of the document, each in a group, with an address of its own', () => {
    const methods = Object.values(document.paths).flatMap((item) => Object.keys(item));
    expect(operations.length).toBe(methods.length);
    expect(new Set(operations.map(({ id }) => id)).size).toBe(operations.length);
    expect(all.map(({ name }) => name)).toEqual(document.tags?.map(({ name }) => name));
  });

  it('have answers in the order of their status, and the parameters of their path', () => {
    const paths = {
      '/a/{x}': { parameters: [{ name: 'x', in: 'path' }], get: { responses: { 404: {}, 200: {} } } },
    };
    const [group] = groups({ info: { title: '', version: '' }, paths });
    const [one] = group?.operations ?? [];
    expect(one?.answers.map(({ status }) => status)).toEqual(['200', '404']);
    expect([one?.id, one?.tag, one?.parameters.length]).toEqual(['get-a-x-', 'other', 1]);
  });

  it('are below the page, wherever the gateway is', () => {
    expect(root(document, 'https://example.com/foo/docs')).toBe('https://example.com/foo/api/v1');
    expect(root(document, 'http://127.0.0.1:3001/docs#act')).toBe('http://127.0.0.1:3001/api/v1');
  });
});

describe('shapes', () => {
  it('follow references, and say what is nearer', () => {
    const found = shaped(
      { Seconds: { oneOf: [{ type: 'number' }, { type: 'string' }], description: 'far', examples: [300] } },
      { oneOf: [{ ...ref('Seconds'), description: 'near' }, { type: 'null' }] },
    );
    expect(found).toMatchObject({
      type: 'number or string or null',
      description: 'near',
      facts: ['such as 300'],
      variants: [],
    });
  });

  it('end where a schema comes to itself again', () => {
    const node = {
      type: 'object',
      properties: { next: ref('Node'), all: { type: 'array', items: ref('Node') } },
    };
    const found = shaped({ Node: node }, ref('Node'));
    expect(found.type).toBe('Node');
    expect(found.fields.map(({ name, shape }) => [name, shape.type, shape.fields.length])).toEqual([
      ['next', 'Node', 0],
      ['all', 'array of Node', 0],
    ]);
    expect(sample(document, ref('nothing'))).toBeNull();
  });

  it('have an end without names, too', () => {
    let deep: Schema = { type: 'string' };
    for (let level = 0; level < 40; level += 1) deep = { type: 'array', items: deep };
    expect(shaped({}, deep).type.split(' of ').length).toBeLessThan(10);
  });

  it('tell bounds, defaults, all values, and what must be there first', () => {
    const found = shaped(
      { Kind: { type: 'string', enum: ['a', 'b'] } },
      {
        type: 'object',
        required: ['z'],
        properties: {
          n: { type: ['integer', 'null'], minimum: 1, maximum: 9, default: 3 },
          z: ref('Kind'),
          m: { type: 'object', additionalProperties: { type: 'integer' } },
        },
      },
    );
    expect(found.fields.map(({ name, required }) => [name, required])).toEqual([
      ['z', true],
      ['n', false],
      ['m', false],
    ]);
    const [z, n, m] = found.fields.map(({ shape }) => shape);
    expect(z).toMatchObject({ type: 'string', values: ['a', 'b'] });
    expect(n).toMatchObject({ type: 'integer or null', facts: ['1 to 9', 'default 3'] });
    expect(m?.type).toBe('map of integer');
  });

  it('join what is combined, and keep apart what has something to say', () => {
    const both = shape(document, ref('Code'));
    expect(both.fields.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['code', 'language', 'command']),
    );
    const line = shape(document, ref('CommandLine'));
    expect(line.type).toBe('string or array of string');
    expect(line.variants.map(({ description }) => description)).toEqual(['For `/bin/sh -c`.', 'As it is.']);
  });
});

describe('examples', () => {
  const asked = (id: string) => example(document, called(id), 'https://x/api/v1').text;

  it('are there for every operation, with all that must be', () => {
    for (const operation of operations) {
      const { kind, text } = example(document, operation, 'https://x/api/v1');
      expect(text).toMatch(kind === 'curl' ? /^curl/ : /^wss:/);
      expect(text, operation.id).not.toMatch(/[{]\w+[}]|undefined|null/);
      for (const { name, in: place, required } of operation.parameters) {
        if (place === 'query' && required === true) expect(text).toContain(`${name}=`);
      }
      const data = / -d '(.*)'$/s.exec(text)?.[1];
      if (operation.body?.media[0]?.type === 'application/json')
        expect(JSON.parse(data ?? '')).not.toEqual({});
    }
  });

  it('are what people would write', () => {
    expect(asked('createSandbox')).toContain(`-d '{"template":"base","timeout":600}'`);
    expect(asked('runCommand')).toMatch(/"command":"echo hello"/);
    expect(asked('runCode')).toMatch(/"code":"print\(1 \+ 1\)"/);
    expect(asked('readFile')).toContain('"https://x/api/v1/sandboxes/$ID/files?path=hello.txt"');
    expect(asked('writeFile')).toContain('--data-binary @hello.txt');
    expect(asked('watchFiles')).toMatch(/^curl -N/);
    expect(asked('attachTerminal')).toBe('wss://x/api/v1/sandboxes/$ID/pty/$PTY');
  });
});

describe('the search', () => {
  const haystacks = new Map(operations.map((one) => [one.id, haystack(document, one)]));
  const ids = (query: string) =>
    found(all, haystacks, query).flatMap((group) => group.operations.map(({ id }) => id));

  it('wants every word, anywhere: in names, addresses, parameters, fields', () => {
    expect(ids(' ')).toEqual(operations.map(({ id }) => id));
    expect(ids('POST idempotency')).toEqual(['createSandbox']);
    expect(ids('dockerfile')).toEqual(['buildTemplate']);
    expect(ids('nothing of the kind')).toEqual([]);
  });
});
