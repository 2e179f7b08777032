#include "cli/words_option.h"

namespace snapgdb::cli {

// An option of CLI11's that may go on for ever takes the word "[a,b]" for a list of two, and "[]"
// for none. One that is owed more words than there will ever be takes all as they are, and with
// TakeAll nobody minds that most of them never come.
CLI::Option* add_words(CLI::App& app, const std::string& name, std::vector<std::string>& words,
                       const std::string& help) {
  constexpr int kEndless = CLI::detail::expected_max_vector_size;
  const auto take = [&words](const CLI::results_t& given) {
    words = given;
    return true;
  };
  return app.add_option(name, take, help)
      ->type_name("TEXT")
      ->expected(kEndless, kEndless)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

}  // namespace snapgdb::cli
