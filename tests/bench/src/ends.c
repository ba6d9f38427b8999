// The ends of a measurement: a forwarder in the kernel, and who takes what was forwarded.
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))

// The least that a forwarder can do: swap the addresses and send the frame back.
SEC("xdp")
int xdp_tx(struct xdp_md *ctx)
{
	unsigned short *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if ((void *)(data + 7) > end)
		return XDP_DROP;
	for (int i = 0; i < 3; i++) {
		unsigned short kept = data[i];

		data[i] = data[i + 3];
		data[i + 3] = kept;
	}
	return XDP_TX;
}

// Counted by the interface, and gone.
SEC("xdp")
int xdp_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
