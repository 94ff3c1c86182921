// The three ways to run a command, streamed, waited for and in the background; and files.
import { Sandbox } from '../../sdk/typescript/dist/index.js';

const sb = await Sandbox.create({ template: process.env.TEMPLATE ?? 'base' });
try {
  // As it comes, standard error too, and any number at once.
  for await (const event of sb.commands.stream("echo 'Hello World'; echo 'oh' >&2")) {
    if (event.type === 'stdout' || event.type === 'stderr') process.stdout.write(event.text);
    if (event.type === 'exit') console.log(`ended with ${event.exitCode}`);
  }

  // One combined result.
  console.log((await sb.commands.run('uname -a')).stdout);

  // In the background, looked at later.
  const counting = await sb.commands.start('for n in 1 2 3; do echo $n; done');
  console.log(await counting.wait());
  console.log((await counting.read()).stdout);

  await sb.files.write('path/to/file', 'content');
  console.log(await sb.files.readText('path/to/file'));
  console.log(await sb.files.exists('path/to/file'));
} finally {
  await sb.kill();
}
