// Where the output goes when others have had their hands in its folder.
#include "output/open_output.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "output/formats.h"
#include "output/output_file.h"
#include "platform/files.h"

namespace echion::output {
namespace {

using testing::HasSubstr;

constexpr uid_t kOther = 65534;
constexpr char kProfile[] = "# mode: wall\n# interval: 1000 \n# sampler: echion 0.1\n\nP1;T0:x 5\n";

/// Without power over others' files for as long as it lives, if this is root.
class AsOther {
  public:
    AsOther() {
        if (geteuid() == 0) {
            EXPECT_EQ(setegid(kOther), 0);
            EXPECT_EQ(seteuid(kOther), 0);
        }
    }
    ~AsOther() {
        if (getuid() == 0) {
            EXPECT_EQ(seteuid(0), 0);
            EXPECT_EQ(setegid(0), 0);
        }
    }
    AsOther(const AsOther&) = delete;
    AsOther& operator=(const AsOther&) = delete;
};

class OpenOutput : public testing::Test {
  protected:
    OpenOutput() {
        char name[] = "/tmp/echion-test-XXXXXX";
        base = mkdtemp(name);
        chmod(base.c_str(), 0755);
        before = std::filesystem::current_path();
        before_mask = umask(022);
    }
    ~OpenOutput() override {
        std::filesystem::current_path(before);
        umask(before_mask);
        std::filesystem::remove_all(base);
    }

    /// A folder below the base.
    std::string folder(const std::string& name, uid_t owner, mode_t mode) const {
        const std::string path = base + "/" + name;
        EXPECT_EQ(mkdir(path.c_str(), 0700), 0);
        if (geteuid() == 0) {
            EXPECT_EQ(chown(path.c_str(), owner, owner), 0);
        }
        EXPECT_EQ(chmod(path.c_str(), mode), 0);
        return path;
    }
    static std::string file(const std::string& path, const std::string& text, uid_t owner,
                            mode_t mode = 0644) {
        std::ofstream(path) << text;
        EXPECT_EQ(chmod(path.c_str(), mode), 0);
        if (geteuid() == 0) {
            EXPECT_EQ(chown(path.c_str(), owner, owner), 0);
        }
        return path;
    }
    static std::string link(const std::string& path, const std::string& target, uid_t owner) {
        EXPECT_EQ(symlink(target.c_str(), path.c_str()), 0);
        if (geteuid() == 0) {
            EXPECT_EQ(lchown(path.c_str(), owner, owner), 0);
        }
        return path;
    }
    static std::string read(const std::string& from) {
        std::stringstream all;
        all << std::ifstream(from).rdbuf();
        return all.str();
    }
    static std::string why_not(const std::string& path, NameOrigin origin) {
        const auto opened = open_output(path, origin);
        return opened ? "it is open" : opened.error().what;
    }
    /// Why the default name is not taken in this folder.
    static std::string why_not_default(const std::string& in) {
        std::filesystem::current_path(in);
        return why_not("7.echion", NameOrigin::kDefault);
    }
    static std::string why_not_user(const std::string& path) {
        return why_not(path, NameOrigin::kUser);
    }
    /// Whether what is written there comes to be in that file.
    static bool leads_to(const std::string& path, const std::string& file) {
        const auto opened = open_output(path, NameOrigin::kUser);
        struct stat one {};
        struct stat other {};
        return opened && fstat(opened->fd.get(), &one) == 0 && stat(file.c_str(), &other) == 0 &&
               one.st_dev == other.st_dev && one.st_ino == other.st_ino;
    }

    std::string base;
    std::filesystem::path before;
    mode_t before_mask = 0;
};

class RootsOutput : public OpenOutput {
  protected:
    void SetUp() override {
        if (geteuid() != 0) {
            GTEST_SKIP() << "needs root: another user's folders are what it is about";
        }
    }
};

// --- The default name ---

TEST_F(OpenOutput, MakesTheDefaultNameAnew) {
    std::filesystem::current_path(base);
    const auto opened = open_output("7.echion", NameOrigin::kDefault);
    ASSERT_TRUE(opened);
    EXPECT_TRUE(opened->created);
    struct stat info {};
    ASSERT_EQ(fstat(opened->fd.get(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, geteuid() == 0 ? 0600u : 0644u);
}

TEST_F(OpenOutput, ReplacesAnEarlierProfileOfItsOwn) {
    const std::string own = folder("own", geteuid(), 0755);
    const std::string path = file(own + "/7.echion", kProfile, geteuid());
    std::filesystem::current_path(own);
    const auto opened = open_output("7.echion", NameOrigin::kDefault);
    ASSERT_TRUE(opened) << opened.error().what;
    EXPECT_FALSE(opened->created);
    EXPECT_EQ(read(path), kProfile) << "before anything is written";
    struct stat info {};
    ASSERT_EQ(fstat(opened->fd.get(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, geteuid() == 0 ? 0600u : 0644u);
}

TEST_F(OpenOutput, ReplacesAnEmptyFileOfItsOwn) {
    const std::string own = folder("own", geteuid(), 0755);
    file(own + "/7.echion", "", geteuid());
    EXPECT_EQ(why_not_default(own), "it is open");
}

TEST_F(OpenOutput, KnowsTheProfilesOfEachFormat) {
    const std::string own = folder("own", geteuid(), 0755);
    const std::string path = own + "/7.echion";
    for (const Format format : {Format::kAustin, Format::kMojo, Format::kPprof}) {
        auto profile = OutputFile::open(path).value();
        const auto writer = make_writer(format, profile, {}, {});
        writer->add_header("mode", "wall");
        writer->add_header("interval", "1000");
        writer->add_header("sampler", "echion 0.1");
        writer->add_footer("samples", "0");
        writer->finish(0);
        ASSERT_TRUE(profile.close());
        const std::string written = read(path);
        ASSERT_GT(written.size(), 40U);
        EXPECT_EQ(why_not_default(own), "it is open") << static_cast<int>(format);
        file(path, written.substr(1), geteuid());
        EXPECT_THAT(why_not_default(own), HasSubstr("no profile")) << static_cast<int>(format);
        std::filesystem::remove(path);
    }
}

TEST_F(OpenOutput, LeavesWhatIsNoProfile) {
    const std::string own = folder("own", geteuid(), 0755);
    const std::string path = file(own + "/7.echion", "# mode: precious\n", geteuid());
    EXPECT_THAT(why_not_default(own), HasSubstr("no profile"));
    EXPECT_EQ(read(path), "# mode: precious\n");
}

TEST_F(OpenOutput, FollowsNoLinkFromTheDefaultName) {
    const std::string own = folder("own", geteuid(), 0755);
    const std::string target = file(base + "/target", kProfile, geteuid());
    const std::string path = link(own + "/7.echion", target, geteuid());
    EXPECT_THAT(why_not_default(own), HasSubstr("symbolic link"));
    std::filesystem::remove(path);
    link(path, base + "/nothing", geteuid());
    EXPECT_THAT(why_not_default(own), HasSubstr("symbolic link"));
    EXPECT_FALSE(std::filesystem::exists(base + "/nothing"));
}

TEST_F(OpenOutput, WritesToNoOtherNameOfAFile) {
    const std::string own = folder("own", geteuid(), 0755);
    const std::string target = file(base + "/target", kProfile, geteuid());
    ASSERT_EQ(::link(target.c_str(), (own + "/7.echion").c_str()), 0);
    EXPECT_THAT(why_not_default(own), HasSubstr("hard links"));
}

TEST_F(OpenOutput, TakesNoFolderOrFifoByItsDefaultName) {
    const std::string own = folder("own", geteuid(), 0755);
    ASSERT_EQ(mkdir((own + "/7.echion").c_str(), 0755), 0);
    EXPECT_THAT(why_not_default(own), HasSubstr("folder of that name"));
    std::filesystem::remove(own + "/7.echion");
    ASSERT_EQ(mkfifo((own + "/7.echion").c_str(), 0600), 0);
    EXPECT_THAT(why_not_default(own), HasSubstr("no regular file"));
}

TEST_F(RootsOutput, ReplacesNoOtherUsersFileByDefault) {
    for (const mode_t mode : {0755, 01777}) {
        const std::string theirs = folder("theirs", kOther, mode);
        const std::string path = file(theirs + "/7.echion", kProfile, kOther);
        EXPECT_THAT(why_not_default(theirs), HasSubstr("another user's file"));
        EXPECT_EQ(read(path), kProfile);
        std::filesystem::current_path(base);
        std::filesystem::remove_all(theirs);
    }
}

TEST_F(RootsOutput, ReplacesNoProfileThatOthersCanWriteTo) {
    const std::string own = folder("own", 0, 0755);
    file(own + "/7.echion", kProfile, 0, 0666);
    EXPECT_THAT(why_not_default(own), HasSubstr("other users can write"));
}

TEST_F(RootsOutput, FollowsNoLinkOfAnotherUsersByDefault) {
    for (const mode_t mode : {0755, 01777}) {
        const std::string theirs = folder("theirs", kOther, mode);
        const std::string target = file(base + "/target", kProfile, 0);
        link(theirs + "/7.echion", target, kOther);
        EXPECT_THAT(why_not_default(theirs), HasSubstr("symbolic link"));
        EXPECT_EQ(read(target), kProfile);
        std::filesystem::current_path(base);
        std::filesystem::remove_all(theirs);
    }
}

// --- A name from -o, under root ---

class ForeignFolder : public RootsOutput, public testing::WithParamInterface<mode_t> {
  protected:
    void SetUp() override {
        RootsOutput::SetUp();
        if (!IsSkipped()) {
            theirs = folder("theirs", GetParam() == 01777 ? 0 : kOther, GetParam());
            target = file(base + "/target", "precious", 0, 0600);
        }
    }
    std::string theirs;
    std::string target;
};

TEST_P(ForeignFolder, ANewFileIsMade) { EXPECT_EQ(why_not_user(theirs + "/new"), "it is open"); }

TEST_P(ForeignFolder, AFileOfRootsOwnIsWritten) {
    const std::string path = file(theirs + "/mine", "old", 0);
    EXPECT_TRUE(leads_to(path, path));
}

TEST_P(ForeignFolder, ALinkIsNotFollowed) {
    EXPECT_THAT(why_not_user(link(theirs + "/out", target, kOther)), HasSubstr("symbolic link"));
    EXPECT_EQ(read(target), "precious");
}

TEST_P(ForeignFolder, ALinkToNothingMakesNothing) {
    link(theirs + "/out", base + "/nothing", kOther);
    EXPECT_THAT(why_not_user(theirs + "/out"), HasSubstr("symbolic link"));
    EXPECT_FALSE(std::filesystem::exists(base + "/nothing"));
}

TEST_P(ForeignFolder, ALinkOnTheWayIsNotFollowed) {
    link(theirs + "/way", base, kOther);
    EXPECT_THAT(why_not_user(theirs + "/way/target"), HasSubstr("on the way"));
    EXPECT_THAT(why_not_user(theirs + "/way/new"), HasSubstr("on the way"));
    EXPECT_FALSE(std::filesystem::exists(base + "/new"));
}

TEST_P(ForeignFolder, AHardLinkIsNotWritten) {
    ASSERT_EQ(::link(target.c_str(), (theirs + "/out").c_str()), 0);
    EXPECT_THAT(why_not_user(theirs + "/out"), HasSubstr("hard links"));
}

TEST_P(ForeignFolder, AnotherUsersFileIsNotWritten) {
    EXPECT_THAT(why_not_user(file(theirs + "/out", "x", kOther)), HasSubstr("another user's"));
}

TEST_P(ForeignFolder, AnotherUsersFifoIsNeitherWrittenNorWaitedFor) {
    const std::string path = theirs + "/out";
    ASSERT_EQ(mkfifo(path.c_str(), 0666), 0);
    ASSERT_EQ(chown(path.c_str(), kOther, kOther), 0);
    EXPECT_THAT(why_not_user(path), HasSubstr("another user's"));
    const UniqueFd reader(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    EXPECT_THAT(why_not_user(path), HasSubstr("another user's"));
}

TEST_P(ForeignFolder, AFifoOfRootsOwnIsWritten) {
    const std::string path = theirs + "/out";
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    const UniqueFd reader(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    EXPECT_TRUE(leads_to(path, path));
}

TEST_P(ForeignFolder, ALinkOfRootsThatLeadsThereGoesNoFurther) {
    link(theirs + "/out", target, kOther);
    const std::string path = link(base + "/mine", theirs + "/out", 0);
    EXPECT_THAT(why_not_user(path), HasSubstr("symbolic link"));
}

TEST_P(ForeignFolder, AFolderIsNoFile) {
    ASSERT_EQ(mkdir((theirs + "/out").c_str(), 0755), 0);
    const auto opened = open_output(theirs + "/out", NameOrigin::kUser);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().system_errno, EISDIR);
}

// Another user's own, and one like the temporary folder.
INSTANTIATE_TEST_SUITE_P(Kinds, ForeignFolder, testing::Values(0755, 0775, 0777, 01777));

TEST_F(RootsOutput, InItsOwnFolderIsWrittenAsOnesLikes) {
    const std::string target = file(base + "/target", "old", kOther);
    EXPECT_TRUE(leads_to(target, target));
    EXPECT_TRUE(leads_to(link(base + "/link", "target", 0), target));
    EXPECT_TRUE(leads_to(link(base + "/second", base + "/link", 0), target));
    folder("below", 0, 0755);
    EXPECT_TRUE(leads_to(link(base + "/way", "below/../below", 0) + "/../target", target));
    EXPECT_EQ(why_not_user(link(base + "/dangling", base + "/below//new", 0)), "it is open");
    EXPECT_TRUE(std::filesystem::exists(base + "/below/new"));
    link(base + "/loop", base + "/loop", 0);
    const auto opened = open_output(base + "/loop", NameOrigin::kUser);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().system_errno, ELOOP);
}

TEST_F(OpenOutput, TakesDevicesAndOpenFiles) {
    EXPECT_TRUE(leads_to("/dev/null", "/dev/null"));
    const std::string path = file(base + "/open", "", geteuid());
    const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    EXPECT_TRUE(leads_to("/dev/fd/" + std::to_string(fd.get()), path));
    EXPECT_TRUE(leads_to("/proc/self/fd/" + std::to_string(fd.get()), path));
}

TEST_F(OpenOutput, GoesBesideTheWayOfEmptyAndDottedParts) {
    const std::string own = folder("own", geteuid(), 0755);
    const std::string path = file(own + "/out", "", geteuid());
    std::filesystem::current_path(base);
    EXPECT_TRUE(leads_to("own//./../own/out", path));
    for (const std::string wrong : {"/", "own/", "own/..", ".", "own/out/"}) {
        EXPECT_FALSE(open_output(wrong, NameOrigin::kUser)) << wrong;
    }
}

TEST_F(OpenOutput, AFifoThatNobodyReadsIsRefused) {
    ASSERT_EQ(mkfifo((base + "/out").c_str(), 0600), 0);
    EXPECT_EQ(why_not_user(base + "/out"), "it is a FIFO that nobody reads");
}

TEST_F(OpenOutput, WithoutPowerOverOthersALinkIsFollowed) {
    const std::string own = folder("own", geteuid() == 0 ? kOther : geteuid(), 0755);
    const AsOther user;
    const std::string target = file(own + "/target", "old", geteuid());
    EXPECT_TRUE(leads_to(link(own + "/link", target, geteuid()), target));
    EXPECT_FALSE(has_power_over_files());
    std::filesystem::current_path(own);
    std::filesystem::rename(own + "/link", own + "/7.echion");
    EXPECT_THAT(why_not("7.echion", NameOrigin::kDefault), HasSubstr("symbolic link"));
}

}  // namespace
}  // namespace echion::output
