-- Has the route chosen again, now that the headers say who calls.
function envoy_on_request(handle)
  handle:clearRouteCache()
end
