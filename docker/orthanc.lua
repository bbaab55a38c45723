-- Sends every series that overread can analyse to it, as soon as the series is stable.
-- "overread" is its name in DicomModalities of orthanc.json.

local TARGET = 'overread'
local TARGET_AE_TITLE = 'OVERREAD'
local MODALITIES = { CT = true, CR = true, DX = true, MR = true, PT = true }

local failed = {}

local function store(resource)
  -- A store job, not SendToModality: that one takes instances only, and blocks this script.
  local job = { Resources = { resource }, Synchronous = false }
  RestApiPost('/modalities/' .. TARGET .. '/store', DumpJson(job, true), false)
end

function OnStableSeries(seriesId, tags, metadata)
  -- What came from overread itself (by C-STORE) never goes back.
  if metadata['RemoteAET'] == TARGET_AE_TITLE then
    return
  end
  -- Reports, segmentations and secondary captures by modality SR, SEG, OT are nothing to analyse.
  if MODALITIES[tags['Modality']] then
    store(seriesId)
  end
end

-- While overread is away, store jobs fail; they are tried again at every heartbeat
-- (LuaHeartBeatPeriod, in seconds) until they succeed. Needs Orthanc 1.11.1 or later: an older
-- one keeps them in its list of jobs, where "Resubmit" sends them.
function OnJobFailure(jobId)
  local job = ParseJson(RestApiGet('/jobs/' .. jobId, false))
  if job['Type'] == 'DicomModalityStore' and job['Content']['RemoteAet'] == TARGET_AE_TITLE then
    failed[jobId] = true
  end
end

function OnHeartBeat()
  for jobId in pairs(failed) do
    failed[jobId] = nil
    RestApiPost('/jobs/' .. jobId .. '/resubmit', '', false)
  end
end
