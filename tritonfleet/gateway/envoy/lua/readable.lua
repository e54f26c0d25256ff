-- Tells which header of a call gRPC's core could not read. It keeps such a header in the table of
-- the connection, which many callers share, and then fails whatever else refers to that entry.
local ENCODINGS = { identity = true, deflate = true, gzip = true }

-- Asked for by name: to go through all headers costs ten microseconds.
local function is_well(headers, name, check)
  local text = headers:get(name)
  return not text or check(text)
end

local function is_timeout(text)
  return #text <= 9 and string.find(text, "^%d+[HMSmun]$") ~= nil
end

local function is_encoding(text)
  return ENCODINGS[text] ~= nil
end

local function is_number(text)
  return #text <= 9 and string.find(text, "^%d+$") ~= nil
end

function unreadable(headers)
  if not is_well(headers, "grpc-timeout", is_timeout) then return "grpc-timeout" end
  if not is_well(headers, "grpc-encoding", is_encoding) then return "grpc-encoding" end
  local attempts = "grpc-previous-rpc-attempts"
  if not is_well(headers, attempts, is_number) then return attempts end
end
