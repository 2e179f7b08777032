#pragma once

#include "gdbstub/packets.h"

// The handlers that the table in packets.cc lists, by the file they stand in.
namespace snapgdb::gdbstub {

// general_packets.cc
Handler enable_extended_mode, current_thread, select_thread, thread_is_alive;
Handler first_thread_ids, more_thread_ids, thread_label, thread_local_variable;
Handler start_no_ack_mode, was_attached, offer_symbols, monitor_command;

// memory_packets.cc
Handler read_memory, write_memory, read_memory_binary, write_memory_binary;
Handler search_memory, checksum_memory;

// register_packets.cc
Handler read_registers, write_registers, read_register, write_register;

// process_packets.cc
Handler attach_process, detach_process, kill_process, kill_all, run_program, restart_program,
    program_and_arguments;

// breakpoint_packets.cc
Handler insert_breakpoint, remove_breakpoint;

// run_packets.cc
Handler resume_actions, resume_threads;
Handler continue_thread, continue_with_signal, step_thread, step_with_signal;
Handler stop_reason, interrupt_program, choose_non_stop, next_notice;

// wish_packets.cc
Handler catch_system_calls, pass_signals, choose_thread_events, choose_thread_options;

// transfer_packets.cc
Handler transfer_auxv, transfer_executable, transfer_features, transfer_libraries;
Handler transfer_siginfo, write_siginfo, transfer_system_data, transfer_threads;

// file_packets.cc
Handler file_close, file_fstat, file_open, file_pread, file_readlink, file_setfs, file_stat;
Handler file_refuse_write;

// lldb_packets.cc
Handler allocate_memory, release_memory, enable_error_strings, host_info, memory_region,
    process_info, shared_library_info, threads_info;

// packets.cc
Handler exchange_features;

}  // namespace snapgdb::gdbstub
