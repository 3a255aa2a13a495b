-- SPDX-License-Identifier: GPL-2.0-only
-- From version 1: a campaign had one harness, one engine, one worker, no plan and no corpus. The
-- tables of version 1 are called campaign_1, finding_1, sighting_1, verdict_1 here.

INSERT INTO campaign (id, plan, seed, started, updated, seconds, executions, state)
SELECT id, '', seed, started, started + CAST(seconds AS INTEGER), seconds, executions, state
FROM campaign_1;

INSERT INTO worker
SELECT id, 0, 0, harness, '', engine, seed, executions, seconds,
       iif(state = 'running', 'running', 'ended'), 1, 0, 0, 0
FROM campaign_1;

INSERT INTO finding (id, harness, target, identity, oracle, rules, targets, site, message, data,
                     case_text, minimised_text, reproduced, campaign)
SELECT id, harness, '', identity, oracle, rules, targets, site, message, data,
       case_text, minimised_text, reproduced, campaign
FROM finding_1;

INSERT INTO sighting SELECT campaign, finding, count FROM sighting_1;

INSERT INTO behaviour (harness, target, point, verdict, campaign)
SELECT harness, '', rule, verdict, campaign FROM verdict_1;
