// Where the calling thread may run, before, while and after it follows another one.
#include "platform/same_cpu.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>
#include <vector>

namespace echion {
namespace {

cpu_set_t read_mask() {
    cpu_set_t mask;
    EXPECT_EQ(sched_getaffinity(0, sizeof(mask), &mask), 0);
    return mask;
}

std::vector<unsigned> list_cpus(const cpu_set_t& mask) {
    std::vector<unsigned> cpus;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &mask)) {
            cpus.push_back(cpu);
        }
    }
    return cpus;
}

cpu_set_t make_mask(unsigned cpu) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(cpu, &mask);
    return mask;
}

TEST(SameCpu, LetsTheThreadRunAgainWhereItsUserLetIt) {
    std::thread([] {
        const std::vector<unsigned> cpus = list_cpus(read_mask());
        if (cpus.size() < 2) {
            GTEST_SKIP() << "needs two CPUs";
        }
        for (int round = 0; round < 2; ++round) {
            const cpu_set_t users = make_mask(cpus[round]);
            ASSERT_EQ(sched_setaffinity(0, sizeof(users), &users), 0);
            SameCpu same_cpu;
            same_cpu.open(0);
            for (const unsigned cpu : cpus) {
                ASSERT_TRUE(same_cpu.move_to(cpu));
                EXPECT_EQ(list_cpus(read_mask()), std::vector{cpu});
            }
            same_cpu.release();
            EXPECT_EQ(list_cpus(read_mask()), std::vector{cpus[round]});
            same_cpu.release();  // nothing to undo
            EXPECT_EQ(list_cpus(read_mask()), std::vector{cpus[round]});
        }
    }).join();
}

TEST(SameCpu, RefusesACpuThatThereIsNot) {
    std::thread([] {
        const std::vector<unsigned> before = list_cpus(read_mask());
        SameCpu same_cpu;
        same_cpu.open(0);
        EXPECT_FALSE(same_cpu.move_to(8191));
        EXPECT_FALSE(same_cpu.move_to(8192));
        same_cpu.release();
        EXPECT_EQ(list_cpus(read_mask()), before);
    }).join();
}

}  // namespace
}  // namespace echion
