-- Marks an HTTP answer in which Triton refuses without having run anything:
-- the model is not there, or its queue is full. The route decides what becomes of it.
local ABSENT, OVERLOADED = "x-tritonfleet-absent", "x-tritonfleet-overloaded"
-- Set by the activator: what comes from there is final.
local RESIDENCY = "tritonfleet-residency"
local LOOK_BYTES = 1024

-- The model that the answer says is absent. Not with "version N is not found": the model is there.
local function absent(text)
  local name, rest = string.match(text, '"Request for unknown model: \'([%w_.-]+)\' ([%w ]+)"')
  if name and (rest == "is not found" or rest == "has no available versions"
      or string.match(rest, "^version %d+ is not at ready state$")) then
    return name
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  if status ~= "404" and status ~= "503" then return end
  if headers:get(RESIDENCY) then return end
  local body = handle:body()
  if not body then return end
  local text = body:getBytes(0, math.min(body:length(), LOOK_BYTES))
  local name = absent(text)
  -- Anew: waiting for the body has made the first ones invalid.
  if name then
    handle:headers():replace(ABSENT, name)
  elseif status == "503" and string.find(text, "Exceeds maximum queue size", 1, true) then
    handle:headers():replace(OVERLOADED, "1")
  end
end
