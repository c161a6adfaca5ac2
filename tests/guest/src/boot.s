# From the PVH entry (32-bit protected mode, ring 0) or a start-up IPI (real mode) to Rust in ring 3, on as
# few instructions as can be: some hosts emulate ring 0 at a million instructions a second, and not all of
# them. That is why every table stands here ready-made: nothing is computed at run time.

.set TASK_STATES, 0x100000      # asserted in link.ld
.set FAULT_STUBS, 0x104000      # asserted in link.ld
.set MAX_CPUS, 16
.set TASK_STATE_SIZE, 128       # 104 used
.set KERNEL_STACK_SIZE, 512     # holds one exception frame
.set USER_STACK_SIZE, 16384
.set VECTORS, 32                # exceptions; there are no interrupts

.set CODE32, 0x08
.set CODE64, 0x10
.set DATA, 0x18
.set USER_DATA, 0x20 | 3
.set USER_CODE, 0x28 | 3
.set FIRST_TASK, 0x30

.set RFLAGS_IOPL3, 0x3002       # IOPL 3, interrupts off

.section .note.PVH, "a", @note
    .balign 4
    .long 4, 8, 18              # name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

.section .boot.tables, "aw", @progbits

# One task state a CPU. All share the I/O permission bitmap behind the last of them: each one's offset to it
# is shorter than that of the one before. A zero bit allows a port.
.globl task_states
task_states:
.set i, 0
.rept MAX_CPUS
    .long 0
    .quad kernel_stacks + (i + 1) * KERNEL_STACK_SIZE   # rsp0
    .skip 90
    .word (MAX_CPUS - i) * TASK_STATE_SIZE              # offset of the bitmap
    .skip TASK_STATE_SIZE - 104
    .set i, i + 1
.endr
    .skip 8192                  # ports 0 to 65535
    .byte 0xff                  # the processor may read one byte beyond

.org 0x3000
interrupt_table:
.set i, 0
.rept VECTORS
    .word (FAULT_STUBS + 16 * i) & 0xffff
    .word CODE64
    .byte 0
    .byte 0x8e                  # interrupt gate
    .word FAULT_STUBS >> 16
    .long 0, 0
    .set i, i + 1
.endr

.org 0x3800
segment_table:
    .quad 0
    .quad 0x00cf9b000000ffff    # CODE32
    .quad 0x00af9b000000ffff    # CODE64
    .quad 0x00cf93000000ffff    # DATA
    .quad 0x00cff3000000ffff    # USER_DATA
    .quad 0x00affb000000ffff    # USER_CODE
.set i, 0
.rept MAX_CPUS                  # available 64-bit task states
    .word (MAX_CPUS - i) * TASK_STATE_SIZE + 8192
    .word (TASK_STATES + i * TASK_STATE_SIZE) & 0xffff
    .byte TASK_STATES >> 16, 0x89, 0, 0
    .quad 0
    .set i, i + 1
.endr
segment_table_end:

.org 0x4000
.globl fault_stubs
.code64
fault_stubs:
.set i, 0
.rept VECTORS
    .balign 16
    .if (i == 8) | ((i >= 10) & (i <= 14)) | (i == 17) | (i == 21) | (i == 29) | (i == 30)
    .else
    pushq $0                    # no error code from the processor
    .endif
    pushq $i
    jmp fault
    .set i, i + 1
.endr

# Four GiB of identity in pages of 2 MiB; Rust adds what lies above. Accessed and dirty are set already, so
# that the processor has nothing to write here.
.org 0x5000
level4:
    .quad level3 + 0x27         # accessed, user, writable, present
    .skip 4096 - 8
.globl level3
level3:
.set i, 0
.rept 4
    .quad level2 + 4096 * i + 0x27
    .set i, i + 1
.endr
    .skip 4096 - 32
level2:
.set i, 0
.rept 2048
    .quad (i << 21) + 0xe7      # 2 MiB page, dirty, accessed, user, writable, present
    .set i, i + 1
.endr

.section .boot.text, "awx", @progbits
.code32
.globl pvh_entry
pvh_entry:                      # ebx: hvm_start_info
    lgdt segment_table_pointer
    xorl %esi, %esi             # CPU 0
    jmp enter_long_mode

# Copied to SIPI_PAGE (smp.rs), hence position independent.
.code16
.globl trampoline, trampoline_end
trampoline:
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl segment_table_pointer - trampoline
    movl $0x11, %eax            # protected mode
    movl %eax, %cr0
    ljmpl $CODE32, $application_processor
segment_table_pointer:
    .word segment_table_end - segment_table - 1
    .long segment_table
trampoline_end:

.code32
application_processor:
    movw $DATA, %ax
    movw %ax, %ds
    movl $1, %esi
    lock xaddl %esi, cpus_arrived
    cmpl $MAX_CPUS, %esi
    jb enter_long_mode
1:  hlt
    jmp 1b

enter_long_mode:                # esi: CPU number, ebx: hvm_start_info
    movl $0x620, %eax           # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $level4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      # EFER
    xorl %edx, %edx
    movl $0x100, %eax           # LME
    wrmsr
    movl $0x80000033, %eax      # paging, native x87 errors, ET, MP, protected mode
    movl %eax, %cr0
    ljmp $CODE64, $enter_ring_3

.code64
enter_ring_3:
    lidt interrupt_table_pointer
    movl %esi, %edi             # first argument: the CPU's number
    movl %ebx, %esi             # second argument: hvm_start_info
    leal 1(%rdi), %ecx
    movl %edi, %eax
    shll $4, %eax
    addl $FIRST_TASK, %eax
    ltr %ax
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    imull $KERNEL_STACK_SIZE, %ecx, %eax
    leaq kernel_stacks(%rax), %rsp
    imull $USER_STACK_SIZE, %ecx, %eax
    leaq user_stacks - 8(%rax), %rax
    pushq $USER_DATA
    pushq %rax
    pushq $RFLAGS_IOPL3
    pushq $USER_CODE
    pushq $guest_entry
    iretq

# An exception, from any ring: go on in ring 3 in `guest_fault(vector, error, rip, cr2)`, on the stack that was
# in use. Nobody returns from there.
fault:
    popq %rdi
    popq %rsi
    movq (%rsp), %rdx
    cmpq $park_cpu, %rdx
    je halt
    movq %cr2, %rcx
    movq $guest_fault, (%rsp)
    movq $USER_CODE, 8(%rsp)
    movq $USER_DATA, 32(%rsp)
    movq 24(%rsp), %rax
    subq $256, %rax             # below the red zone
    andq $-16, %rax
    subq $8, %rax
    movq %rax, 24(%rsp)
    iretq

halt:                           # interrupts are off: for good
    hlt
    jmp halt

# Called in ring 3: leaves it by the one kind of exception that every host delivers (`int` is not emulated everywhere).
.globl park_cpu
park_cpu:
    ud2

interrupt_table_pointer:
    .word VECTORS * 16 - 1
    .quad interrupt_table

.section .data.cpus_arrived, "aw", @progbits
.balign 64
.globl cpus_arrived
cpus_arrived:                   # the boot processor is here
    .long 1

.section .stacks, "aw", @nobits
kernel_stacks:
    .skip MAX_CPUS * KERNEL_STACK_SIZE
.balign 4096
user_stacks:
    .skip MAX_CPUS * USER_STACK_SIZE
