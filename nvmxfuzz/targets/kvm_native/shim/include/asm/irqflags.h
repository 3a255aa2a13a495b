/* SPDX-License-Identifier: GPL-2.0-only */
/* RFLAGS.IF is a variable. */
#include_next <asm/irqflags.h>
#ifndef NVMX_IRQFLAGS_H
#define NVMX_IRQFLAGS_H
#ifndef __ASSEMBLY__

#define arch_local_save_flags() (shim_interrupts)
#define arch_local_irq_restore(flags) ((void)(shim_interrupts = (flags)))
#define arch_local_irq_enable() ((void)(shim_interrupts = 0x200))
#define arch_local_irq_disable() ((void)(shim_interrupts = 0))
#define arch_local_irq_save()				\
	({						\
		unsigned long flags_ = shim_interrupts;	\
		shim_interrupts = 0;			\
		flags_;					\
	})

#endif
#endif
