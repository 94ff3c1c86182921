// A sandbox, a command, a file: the first program of most documents about sandboxes.
// Before: npm install belljar. Here the package is taken from beside it.
import { Sandbox } from '../../sdk/typescript/dist/index.js';

const sb = await Sandbox.create({ template: process.env.TEMPLATE ?? 'base' });
try {
  const result = await sb.commands.run("echo $((1 + 1))");
  console.log(result.stdout); // "2\n"

  await sb.files.write('/tmp/hello.sh', 'echo hello');
  const r2 = await sb.commands.run('sh /tmp/hello.sh');
  console.log(r2.stdout); // "hello\n"
} finally {
  await sb.kill();
}
