// Built for the sake of its headers, which CMakeLists.txt names: those of tests are compiled once.
int main() {}
