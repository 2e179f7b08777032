// hold_registers_spinning(in, out, level) and hold_registers_in_pause(in, out, level): load every
// register but rsp from *in, hold them until hold_end is not zero, and store them to *out.
// hold_registers_counting holds the flags as well, for as long as rcx takes to be counted down.
//   rdi: const RegisterValues* in, rsi: RegisterValues* out, edx: VectorLevel

        .set VECTOR, 0
        .set MASK, 32 * 64
        .set X87, MASK + 8 * 8
        .set GENERAL, X87 + 8 * 16
        .set MXCSR, GENERAL + 15 * 8
        .set X87_CONTROL, MXCSR + 8
        .set FLAGS, X87_CONTROL + 8
        .set FLAGS_HELD, 0xcd5          // RegisterValues::kHeldFlags

// The frame below the pushed registers: control words of the caller, out, level, flags.
        .set OUT, 8
        .set LEVEL, 16
        .set FLAGS_SEEN, 24
        .set FRAME, 32

        .macro save register
        push    %\register
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset \register, 0
        .endm

        .macro restore register
        pop     %\register
        .cfi_adjust_cfa_offset -8
        .cfi_restore \register
        .endm

        .macro load_vectors
        cmpl    $1, %edx
        jl      1f
        je      2f
        .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        vmovdqu64 VECTOR + 64 * \n(%rdi), %zmm\n
        .endr
        .irp n, 0,1,2,3,4,5,6,7
        kmovq   MASK + 8 * \n(%rdi), %k\n
        .endr
        jmp     3f
2:      .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        vmovdqu VECTOR + 64 * \n(%rdi), %ymm\n
        .endr
        jmp     3f
1:      .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        movups  VECTOR + 64 * \n(%rdi), %xmm\n
        .endr
3:
        .endm

        .macro store_vectors
        cmpl    $1, %edx
        jl      1f
        je      2f
        .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        vmovdqu64 %zmm\n, VECTOR + 64 * \n(%rsi)
        .endr
        .irp n, 0,1,2,3,4,5,6,7
        kmovq   %k\n, MASK + 8 * \n(%rsi)
        .endr
        vzeroupper
        jmp     3f
2:      .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        vmovdqu %ymm\n, VECTOR + 64 * \n(%rsi)
        .endr
        vzeroupper
        jmp     3f
1:      .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        movups  %xmm\n, VECTOR + 64 * \n(%rsi)
        .endr
3:
        .endm

        .macro load_x87
        fninit
        .irp n, 7,6,5,4,3,2,1,0
        fldt    X87 + 16 * \n(%rdi)
        .endr
        fldcw   X87_CONTROL(%rdi)
        ldmxcsr MXCSR(%rdi)
        .endm

        .macro store_x87
        fnstcw  X87_CONTROL(%rsi)
        stmxcsr MXCSR(%rsi)
        .irp n, 0,1,2,3,4,5,6,7
        fstpt   X87 + 16 * \n(%rsi)
        .endr
        fninit
        .endm

        .macro load_general
        mov     GENERAL + 0(%rdi), %rax
        mov     GENERAL + 8(%rdi), %rbx
        mov     GENERAL + 16(%rdi), %rcx
        mov     GENERAL + 24(%rdi), %rdx
        mov     GENERAL + 32(%rdi), %rsi
        mov     GENERAL + 48(%rdi), %rbp
        .irp n, 8,9,10,11,12,13,14,15
        mov     GENERAL + 8 * (\n - 1)(%rdi), %r\n
        .endr
        mov     GENERAL + 40(%rdi), %rdi
        .endm

// Afterwards rsi is `out` and edx the level.
        .macro store_general
        push    %rsi
        .cfi_adjust_cfa_offset 8
        mov     OUT + 8(%rsp), %rsi
        mov     %rax, GENERAL + 0(%rsi)
        mov     %rbx, GENERAL + 8(%rsi)
        mov     %rcx, GENERAL + 16(%rsi)
        mov     %rdx, GENERAL + 24(%rsi)
        mov     %rdi, GENERAL + 40(%rsi)
        mov     %rbp, GENERAL + 48(%rsi)
        .irp n, 8,9,10,11,12,13,14,15
        mov     %r\n, GENERAL + 8 * (\n - 1)(%rsi)
        .endr
        pop     %rax
        .cfi_adjust_cfa_offset -8
        mov     %rax, GENERAL + 32(%rsi)
        mov     LEVEL(%rsp), %edx
        .endm

        .macro enter
        .irp register, rbp,rbx,r12,r13,r14,r15
        save    \register
        .endr
        sub     $FRAME, %rsp
        .cfi_adjust_cfa_offset FRAME
        fnstcw  (%rsp)
        stmxcsr 4(%rsp)
        mov     %rsi, OUT(%rsp)
        mov     %edx, LEVEL(%rsp)
        load_x87
        load_vectors
        load_general
        .endm

        .macro leave_and_return
        store_general
        mov     FLAGS_SEEN(%rsp), %rax
        mov     %rax, FLAGS(%rsi)
        store_vectors
        store_x87
        fldcw   (%rsp)
        ldmxcsr 4(%rsp)
        add     $FRAME, %rsp
        .cfi_adjust_cfa_offset -FRAME
        .irp register, r15,r14,r13,r12,rbx,rbp
        restore \register
        .endr
        ret
        .endm

        .macro function name
        .globl  \name
        .hidden \name
        .type   \name, @function
\name:
        .cfi_startproc
        .endm

        .macro end_function name
        .cfi_endproc
        .size   \name, . - \name
        .endm

        .text
        function hold_registers_spinning
        enter
1:      cmpl    $0, hold_end(%rip)
        je      1b
        leave_and_return
        end_function hold_registers_spinning

// LOOP changes no flag.
        function hold_registers_counting
        enter
        push    $FLAGS_HELD
        .cfi_adjust_cfa_offset 8
        popf
        .cfi_adjust_cfa_offset -8
1:      loop    1b
        pushf
        .cfi_adjust_cfa_offset 8
        pop     FLAGS_SEEN(%rsp)
        .cfi_adjust_cfa_offset -8
        cld
        leave_and_return
        end_function hold_registers_counting

        .set SYS_pause, 34
        function hold_registers_in_pause
        enter
1:      mov     $SYS_pause, %eax
        syscall
        incl    hold_pauses(%rip)
        cmpl    $0, hold_end(%rip)
        je      1b
        leave_and_return
        end_function hold_registers_in_pause

        .section .note.GNU-stack, "", @progbits
