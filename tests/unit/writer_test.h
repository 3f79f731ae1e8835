#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "model/stack_sink.h"
#include "output/output_file.h"

namespace echion::output {

/// A file to write a profile to, and frames to put into it.
class WriterTest : public testing::Test {
  protected:
    WriterTest() {
        folder = testing::TempDir() + "echion-test-XXXXXX";
        EXPECT_NE(mkdtemp(folder.data()), nullptr);
        path = folder + "/out";
        file.emplace(OutputFile::open(path).value());
    }
    ~WriterTest() override { std::filesystem::remove_all(folder); }

    /// What is in the file by now.
    std::string read() {
        std::stringstream all;
        all << std::ifstream(path).rdbuf();
        return all.str();
    }
    static model::Frame code(std::uint64_t id, std::string_view name, std::uint32_t line,
                             std::string_view file_name = "a.py", std::string_view qualified = {}) {
        return {id, model::CodeView{model::CodeKind::kLocations, 1, name, qualified, file_name, {}},
                line};
    }
    static model::Frame label(std::uint64_t id, std::string_view name) {
        return {id, model::CodeView{model::CodeKind::kLabel, 0, name, {}, {}, {}}, 0};
    }
    using Frames = std::vector<model::Frame>;

    std::string folder;
    std::string path;
    std::optional<OutputFile> file;
};

}  // namespace echion::output
