// Signs in with a wrong key and a right one, makes a key, reads the audit trail, signs out.
import { withPage } from './browser.mjs';

await withPage(async (page, { url, key, folder }, seen) => {
  const picture = (name) => page.screenshot({ path: `${folder}/${name}.png` });
  await page.goto(`${url}/queue`);
  await picture('login');
  await page.fill('#key', 'a wrong key');
  await page.click('button[type=submit]');
  const refused = await page.innerText('[role=alert]');
  await picture('refused');
  await page.fill('#key', key);
  await page.click('button[type=submit]');
  await page.waitForURL('**/queue');
  const signedIn = await page.innerText('.who');

  await page.click('nav >> text=Keys');
  await page.fill('input[name=name]', '<b>PACS</b> router');
  await page.selectOption('select[name=role]', 'operator');
  await page.selectOption('select[name=days]', '90');
  await page.click('text=Make a key');
  const secret = await page.innerText('.secret');
  await picture('key');
  await page.reload({ waitUntil: 'load' }).catch(() => undefined);
  const sentTwice = await page.innerText('[role=alert]');
  await page.goto(`${url}/keys`);
  const shownAgain = (await page.content()).includes(secret);
  await page.click('button[aria-label^="Revoke the key"]');
  const keys = await page.innerText('table');
  await picture('keys');

  await page.click('nav >> text=Audit');
  await page.selectOption('select[name=kind]', 'login');
  await page.click('form[role=search] button');
  const logins = await page.innerText('table');
  await page.goto(`${url}/audit`);
  await picture('audit');
  const trail = await page.innerText('table');
  await page.click('nav >> text=Webhooks');
  await picture('webhooks');
  const webhooks = await page.innerText('main');

  await page.click('text=Sign out');
  const out = await page.innerText('main');
  const after = (await page.goto(`${url}/keys`)).status();
  return { refused, signedIn, secret, sentTwice, shownAgain, keys, logins, trail, webhooks, out, after, errors: seen.errors };
});
