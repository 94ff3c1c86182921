// A sandbox, a command, a file: the first program of most documents about sandboxes.
import { Sandbox } from 'belljar';

const sb = await Sandbox.create({ template: 'node' });
try {
  const result = await sb.commands.run("node -e 'console.log(1+1)'");
  console.log(result.stdout); // "2\n"

  await sb.files.write('/tmp/hello.js', "console.log('hello')");
  const r2 = await sb.commands.run('node /tmp/hello.js');
  console.log(r2.stdout); // "hello\n"
} finally {
  await sb.kill();
}
