-- Reads the model's name from a ModelInferRequest into the header by which the route is chosen.
-- Where anything is out of the ordinary it says nothing: such a request goes to the activator,
-- which has a complete parser. Before that it refuses what readable.lua does not let pass.
local MODEL = "x-tritonfleet-model"
local METHOD = "/inference.GRPCInferenceService/ModelInfer"
local FRAME_BYTES, HEAD_BYTES, STEP_BYTES = 5, 512, 24
local MAX_NAME_BYTES = 200
local VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
local MODEL_NAME, MODEL_VERSION = 1, 2

-- A window on the body: headers of fields are looked at, tensors are not copied.
local function reader(body)
  local length = body:length()
  local first, text = 0, body:getBytes(0, math.min(length, HEAD_BYTES))
  local self = { length = length }
  function self.byte(at)
    if at >= length then return nil end
    local index = at - first + 1
    if index < 1 or index > #text then
      first, text, index = at, body:getBytes(at, math.min(length - at, STEP_BYTES)), 1
    end
    return string.byte(text, index)
  end
  function self.bytes(at, count)
    if count == 0 then return "" end
    return body:getBytes(at, count)
  end
  return self
end

-- A number of at most 'limit' bytes and where it ends; nil if there is none.
local function varint(read, at, limit)
  local value, scale = 0, 1
  for index = 0, limit - 1 do
    local byte = read.byte(at + index)
    if not byte then return nil end
    value = value + (byte % 128) * scale
    if byte < 128 then return value, at + index + 1 end
    scale = scale * 128
  end
end

-- Where a field's value begins and ends; nil if it does not end within the message.
local function extent(read, wire, at)
  local size
  if wire == BYTES then
    size, at = varint(read, at, 5)
  elseif wire == FIXED64 then
    size = 8
  elseif wire == FIXED32 then
    size = 4
  elseif wire == VARINT then
    local _, past = varint(read, at, 10)
    return at, past
  end
  if size and size <= read.length - at then return at, at + size end
end

-- The name and version that a parser takes: of several fields the last counts.
local function parse(read)
  local at, name, version = FRAME_BYTES, nil, nil
  while at < read.length do
    local tag, value = varint(read, at, 5)
    if not tag or tag < 8 or tag >= 4294967296 then return nil end
    local wire, field = tag % 8, math.floor(tag / 8)
    local first, past = extent(read, wire, value)
    if not past then return nil end
    if wire == BYTES and field == MODEL_NAME then
      name = past - first <= MAX_NAME_BYTES and read.bytes(first, past - first) or ""
    elseif wire == BYTES and field == MODEL_VERSION then
      version = past > first
    end
    at = past
  end
  return name, version
end

local function is_name(text)
  return text and #text <= MAX_NAME_BYTES and string.find(text, "^%w[%w_.-]*$") ~= nil
end

-- The name in the body's only message, and whether it asks for a version; nil if it is unclear.
local function asked(read)
  if read.length <= FRAME_BYTES or read.byte(0) ~= 0 then return nil end
  local size = ((read.byte(1) * 256 + read.byte(2)) * 256 + read.byte(3)) * 256 + read.byte(4)
  if size ~= read.length - FRAME_BYTES then return nil end
  local name, version = parse(read)
  if is_name(name) then return name, version end
end

-- Asks for a version in the message's place: a field at the end is as good as one in front.
local function insert(handle, body, version)
  local field = string.char(MODEL_VERSION * 8 + BYTES, #version) .. version
  local text = body:getBytes(FRAME_BYTES, body:length() - FRAME_BYTES) .. field
  local size = #text
  local prefix = string.char(0, math.floor(size / 16777216) % 256, math.floor(size / 65536) % 256,
    math.floor(size / 256) % 256, size % 256)
  body:setBytes(prefix .. text)
  if handle:headers():get("content-length") then
    handle:headers():replace("content-length", tostring(size + FRAME_BYTES))
  end
end

function envoy_on_request(handle)
  local wrong = unreadable(handle:headers())
  if wrong then
    handle:respond({ [":status"] = "400" }, "The header " .. wrong .. " cannot be read.")
    return
  end
  if handle:headers():get(":path") ~= METHOD then return end
  local body = handle:body()
  if not body then return end
  local name, version = asked(reader(body))
  if not name then return end
  handle:headers():replace(MODEL, name)
  local wanted = not version and handle:metadata():get("version")
  if wanted then insert(handle, body, wanted) end
end
