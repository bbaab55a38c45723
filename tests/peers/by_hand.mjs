// Uses the pages as a reader and an administrator do, and reports what they come to.
import { withPage } from './browser.mjs';

await withPage(async (page, { url, uid, file, pictures }, seen) => {
  const shot = async (name) => pictures && page.screenshot({ path: `${pictures}/${name}.png` });
  const toast = () => page.locator('#toasts p').last().innerText();
  const yes = () => page.click('#ask button[value=yes]');
  const found = {};

  // The worklist: columns, and a file dropped on it.
  await page.goto(url);
  await page.click('[data-columns]');
  await page.check('#columns input[name=source]');
  await page.uncheck('#columns input[name=accession]');
  await Promise.all([page.waitForNavigation(), page.click('#columns button[value=keep]')]);
  found.columns = await page.locator('.worklist thead tr:first-child th').allInnerTexts();
  await page.setInputFiles('#files', file);
  await page.waitForFunction(() => document.querySelector('#upload p').textContent.startsWith('1 of 1'));
  found.upload = await page.innerText('#upload p');
  await shot('worklist');
  await page.click('[data-live]');
  found.paused = await page.getAttribute('[data-live]', 'aria-pressed');

  // The study: label, taking it, another operating point, an edit by a click on the key image.
  await page.goto(`${url}/studies/${uid}`);
  await page.fill('#new-label', 'second <b>opinion</b>');
  await page.press('#new-label', 'Enter');
  await page.waitForSelector('.labels .label');
  found.label = await page.innerText('.labels .label a');
  await page.click('text=Take');
  await page.waitForSelector('text=Mark as read');
  found.present = await page.locator('.finding.present').count();
  await page.selectOption('select[name=operating_point]', 'sensitive');
  await page.waitForURL(/operating_point=sensitive/);
  await page.waitForFunction((before) =>
    document.querySelectorAll('.finding.present').length > before, found.present);
  found.sensitive = await page.locator('.finding.present').count();
  await page.locator('a[data-review]').first().click();
  await page.waitForSelector('#review[open] .plate image[href]');
  const plate = page.locator('#review .plate svg');
  const box = await plate.boundingBox();
  await plate.click({ position: { x: box.width / 2, y: box.height / 2 } });
  await page.fill('#review input[name=long_axis_mm]', '12.5');
  await page.fill('#review textarea', 'a vessel beside it\nלא');
  await page.fill('#review input[name=reviewer]', 'Dr. Østergård');
  await shot('review');
  await page.click('#review button[type=submit]');
  await page.waitForSelector('.finding .edited.chosen');
  found.review = await page.locator('.review .second').first().innerText();
  await shot('study');
  await page.click('[data-share]');
  await page.click('#share form button');
  await page.waitForSelector('#share .made:not([hidden])');
  found.link = await page.inputValue('#share .made input');

  // The desk: pause, resume, try again, ask a destination, try rules, switch a model, figures.
  await page.goto(`${url}/queue`);
  await page.locator('.queue-line button').first().click();
  await yes();
  await page.waitForSelector('.queue-line.paused');
  await shot('queue');
  found.queues = (await (await page.request.get(`${url}/api/v1/queues`)).json()).items
    .map((line) => Boolean(line.pause));
  await page.click('text=Resume');
  await page.waitForSelector('.queue-line.paused', { state: 'detached' });
  await page.locator('button:has-text("Try again")').first().click();
  await page.waitForSelector('text=Nothing has failed.');
  await page.goto(`${url}/destinations`);
  await page.click('[data-check]');
  await page.waitForSelector('.answer.bad');
  found.destination = await page.innerText('.answer');
  await page.goto(`${url}/rules`);
  await page.fill('input[name=study_instance_uid]', uid);
  await page.click('form.trial button:not([type=button])');
  await page.waitForSelector('#trial-answer .decided');
  found.trial = await page.innerText('#trial-answer .decided');
  await page.setInputFiles('#trial-file', file);
  await page.waitForFunction(() => document.querySelector('#trial-answer').textContent.includes('one file does not tell'));
  await shot('rules');
  await page.goto(`${url}/models`);
  await page.click('text=Switch off');
  await Promise.all([page.waitForNavigation(), yes()]);
  found.switched = await page.locator('.model .chip').first().innerText();
  await Promise.all([page.waitForNavigation(), page.click('text=As in the settings').then(yes)]);
  found.taken_back = await page.locator('.model .chip').first().innerText();
  await page.goto(`${url}/statistics?since=2026-11-01&until=2026-11-20`);
  found.studies = await page.locator('.tiles dd').first().innerText();
  found.bars = await page.locator('.chart .bar').count();
  await shot('statistics');
  found.errors = seen.errors;
  // Taking a picture puts a style of its own on the page.
  found.refused = pictures ? [] : seen.console.filter((line) => line.includes('Content Security Policy'));
  return found;
});
