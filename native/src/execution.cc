#include "execution.h"

#include <algorithm>
#include <optional>
#include <set>

#include "clock.h"
#include "gather.h"
#include "scatter.h"

namespace tritonfleet {
namespace {

bool same_rows(const RequestInput& x, const RequestInput& y) {
  return !x.shape.empty() && !y.shape.empty() &&
         std::equal(x.shape.begin() + 1, x.shape.end(), y.shape.begin() + 1, y.shape.end());
}

bool stackable(const ModelConfig& config, const Work& a, const Work& b) {
  return std::equal(
      a.inputs.begin(), a.inputs.end(), b.inputs.begin(), b.inputs.end(),
      [&](const RequestInput& x, const RequestInput& y) {
        return x.name == y.name && x.type == y.type &&
               (same_rows(x, y) || config.is_ragged(x.name));
      });
}

std::vector<Works> grouped(const ModelConfig& config, std::vector<Work>& works) {
  std::vector<Works> groups;
  for (auto& work : works) {
    if (work.failure) continue;
    const auto found = std::find_if(groups.begin(), groups.end(), [&](const Works& group) {
      return config.batched() && stackable(config, *group.front(), work);
    });
    if (found != groups.end()) {
      found->push_back(&work);
    } else {
      groups.push_back({&work});
    }
  }
  return groups;
}

// The names of all outputs that somebody wants, states included, each once.
std::vector<std::string> wanted(const ModelConfig& config, const Works& works) {
  std::set<std::string> names;
  for (const Work* work : works) names.insert(work->requested.begin(), work->requested.end());
  for (const auto& state : config.states) names.insert(state.output.name);
  return {names.begin(), names.end()};
}

Run compute(const Session& session, const ModelConfig& config, const Works& works) {
  const auto names = wanted(config, works);
  std::vector<const char*> output_names;
  for (const auto& name : names) output_names.push_back(name.c_str());

  Run run;
  for (const Work* work : works) run.rows += work->rows;
  run.works = works;
  const Inputs inputs = gather(session, config, works, run.rows);
  run.start_ns = now_ns();
  auto values = session.run(inputs.names, inputs.values, output_names);
  run.end_ns = now_ns();
  for (std::size_t i = 0; i < names.size(); ++i) {
    scatter(session, config, works, names[i], std::move(values[i]), run.rows);
  }
  return run;
}

// What was handed out before something went wrong must not be sent.
void fail(const Works& works, const Failure& failure) {
  for (Work* work : works) {
    work->outputs.clear();
    work->states.clear();
    work->failure = failure;
  }
}

// A run for all of them; without one, the reason is their failure.
std::optional<Run> try_compute(
    const Session& session, const ModelConfig& config, const Works& works) {
  try {
    return compute(session, config, works);
  } catch (const Failure& failure) {
    fail(works, failure);
  } catch (const std::exception& error) {  // no memory, mostly
    fail(works, {TRITONSERVER_ERROR_INTERNAL, std::string("the request failed: ") + error.what()});
  }
  return std::nullopt;
}

}  // namespace

std::vector<Run> execute(
    const Session& session, const ModelConfig& config, std::vector<Work>& works) {
  std::vector<Run> runs;
  const auto keep = [&](std::optional<Run> run) {
    if (run) runs.push_back(std::move(*run));
    return run.has_value();
  };
  for (const Works& group : grouped(config, works)) {
    if (keep(try_compute(session, config, group)) || group.size() == 1) continue;
    for (Work* work : group) {
      work->failure.reset();
      keep(try_compute(session, config, {work}));
    }
  }
  return runs;
}

}  // namespace tritonfleet
