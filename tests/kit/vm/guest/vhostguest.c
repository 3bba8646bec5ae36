/* vhostguest FD CID PORT WORD STREAMS HOW: a machine, as far as vsock is concerned.
 *
 * Speaks virtio-vsock with the kernel's vhost driver from user space, as the
 * driver in a guest does through a VMM: its connections to the host are real
 * AF_VSOCK ones from a CID of their own, and ending this process is ending a
 * machine.  FD is an open /dev/vhost-vsock whose CID is set, or -1: open one and
 * take CID as soon as it is free.
 *
 * On STREAMS connections to PORT it says WORD (32 hex digits) all the time; where
 * HOW is "blind", first of all on the ports that the machine before it may have
 * used, without having connected.  When it hears any other word it writes
 * "CROSSED" to standard error and ends.
 *
 * Where HOW is "half" it opens STREAMS connections, says nothing on any of them, and
 * writes each second how many it has asked for, and how many of these were accepted,
 * reset instead, and ended after that. */
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
enum { CLOSED, CONNECTING, UP };
enum { SLOTS = 128, WORD = 16, SAY = 1024, BUFFER = 4096 + 64, HOST = 2, SPARE = 16 };
/* Ports of all machines: a few, so that each meets those of the one before. */
enum { FIRST_PORT = 5000, PORTS = 64, WINDOW = 65536, MOST = 16384 };
/* A socket that the host has closed keeps its port for 8 s, and answers nothing. */
enum { PATIENCE_MS = 100 };

struct header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

struct queue {
    struct vring ring;
    uint16_t seen;
    int kick, call;
    unsigned char *buffers;
};

struct stream {
    int state;
    uint32_t port, heard, told, sent, peer_space, peer_took;
    long retry;
    unsigned place; /* in the word that is being heard */
};

static unsigned char *memory;
static size_t used_memory;
static const size_t memory_size = 4 << 20;
static struct queue rx, tx;
static uint16_t free_slots[SLOTS];
static unsigned free_count;
static uint64_t cid;
static uint32_t service;
static unsigned char word[WORD];
static struct stream streams[MOST];
static unsigned count;
static uint32_t next_port;
static int half;
static unsigned asked, accepted, refused, ended;

static void fail(const char *what)
{
    fprintf(stderr, "vhostguest: %s: %s\n", what, strerror(errno));
    _exit(2);
}

static void crossed(void)
{
    (void)!write(2, "CROSSED\n", 8);
    _exit(1);
}

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void *take(size_t size)
{
    used_memory = (used_memory + 4095) & ~(size_t)4095;
    void *found = memory + used_memory;
    used_memory += size;
    if (used_memory > memory_size)
        fail("memory");
    return found;
}

static void set_up(struct queue *q, int device, unsigned index)
{
    vring_init(&q->ring, SLOTS, take(vring_size(SLOTS, 4096)), 4096);
    q->buffers = take((size_t)SLOTS * BUFFER);
    q->kick = eventfd(0, EFD_NONBLOCK);
    q->call = eventfd(0, EFD_NONBLOCK);
    struct vhost_vring_state number = {index, SLOTS}, base = {index, 0};
    struct vhost_vring_addr where = {.index = index,
                                     .desc_user_addr = (uintptr_t)q->ring.desc,
                                     .avail_user_addr = (uintptr_t)q->ring.avail,
                                     .used_user_addr = (uintptr_t)q->ring.used};
    struct vhost_vring_file kick = {index, q->kick}, call = {index, q->call};
    if (ioctl(device, VHOST_SET_VRING_NUM, &number) ||
        ioctl(device, VHOST_SET_VRING_BASE, &base) ||
        ioctl(device, VHOST_SET_VRING_ADDR, &where) ||
        ioctl(device, VHOST_SET_VRING_KICK, &kick) ||
        ioctl(device, VHOST_SET_VRING_CALL, &call))
        fail("vring");
}

static void offer(struct queue *q, uint16_t slot)
{
    q->ring.avail->ring[q->ring.avail->idx % SLOTS] = slot;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    q->ring.avail->idx++;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void kick(struct queue *q)
{
    uint64_t one = 1;
    (void)!write(q->kick, &one, 8);
}

static void reap(void)
{
    while (tx.seen != __atomic_load_n(&tx.ring.used->idx, __ATOMIC_ACQUIRE))
        free_slots[free_count++] = (uint16_t)tx.ring.used->ring[tx.seen++ % SLOTS].id;
}

static int say(uint32_t port, uint16_t op, uint32_t fwd, unsigned payload)
{
    reap();
    if (!free_count)
        return 0;
    uint16_t slot = free_slots[--free_count];
    unsigned char *at = tx.buffers + (size_t)slot * BUFFER;
    struct header h = {cid, HOST, port, service, payload, 1, op, 0, WINDOW, fwd};
    if (op == SHUTDOWN)
        h.flags = 3;
    memcpy(at, &h, sizeof h);
    for (unsigned i = 0; i < payload; i += WORD)
        memcpy(at + sizeof h + i, word, WORD);
    struct vring_desc *d = &tx.ring.desc[slot];
    d->addr = (uint64_t)(at - memory);
    d->len = sizeof h + payload;
    d->flags = 0;
    offer(&tx, slot);
    return 1;
}

static struct stream *by_port(uint32_t port)
{
    if (half) {
        unsigned i = port - FIRST_PORT;
        return i < asked && streams[i].state != CLOSED ? &streams[i] : NULL;
    }
    for (unsigned i = 0; i < count; i++)
        if (streams[i].state != CLOSED && streams[i].port == port)
            return &streams[i];
    return NULL;
}

static void listen_to(struct stream *s, const unsigned char *data, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        if (data[i] != word[s ? s->place++ % WORD : i % WORD])
            crossed();
}

static void shut(struct stream *s)
{
    if (s->state == UP)
        ended++;
    else
        refused++;
    s->state = CLOSED;
    s->retry = now_ms() + 2;
}

static void hear(const unsigned char *at, unsigned size)
{
    struct header h;
    if (size < sizeof h)
        return;
    memcpy(&h, at, sizeof h);
    struct stream *s = by_port(h.dst_port);
    if (h.op == RW)
        listen_to(s, at + sizeof h, size - sizeof h);
    if (!s) {
        if (h.op != RST)
            say(h.dst_port, RST, 0, 0);
        return;
    }
    s->peer_space = h.buf_alloc;
    s->peer_took = h.fwd_cnt;
    switch (h.op) {
    case RESPONSE:
        s->state = UP;
        accepted++;
        break;
    case RW:
        s->heard += size - sizeof h;
        if (s->heard - s->told > WINDOW / 4 && say(s->port, CREDIT_UPDATE, s->heard, 0))
            s->told = s->heard;
        break;
    case CREDIT_REQUEST:
        say(s->port, CREDIT_UPDATE, s->heard, 0);
        break;
    case SHUTDOWN:
        say(s->port, RST, 0, 0);
        shut(s);
        break;
    case RST:
        shut(s);
        break;
    }
}

static void hear_all(void)
{
    int any = 0;
    while (rx.seen != __atomic_load_n(&rx.ring.used->idx, __ATOMIC_ACQUIRE)) {
        struct vring_used_elem *e = &rx.ring.used->ring[rx.seen++ % SLOTS];
        uint16_t slot = (uint16_t)e->id;
        hear(rx.buffers + (size_t)slot * BUFFER, e->len);
        offer(&rx, slot);
        any = 1;
    }
    if (any)
        kick(&rx);
}

static void speak(void)
{
    for (unsigned i = 0; i < count; i++) {
        struct stream *s = &streams[i];
        if (s->state == CLOSED && now_ms() >= s->retry) {
            memset(s, 0, sizeof *s);
            s->port = FIRST_PORT + next_port++ % PORTS;
            if (say(s->port, REQUEST, 0, 0))
                s->state = CONNECTING;
            s->retry = now_ms() + PATIENCE_MS;
        } else if (s->state == CONNECTING && now_ms() >= s->retry) {
            shut(s);
        } else if (s->state == UP && s->peer_space - (s->sent - s->peer_took) >= SAY &&
                   free_count > SPARE && say(s->port, RW, s->heard, SAY)) {
            s->sent += SAY;
            s->told = s->heard;
        }
    }
    kick(&tx);
}

/* Asks for those that are missing, and no more. */
static void ask(void)
{
    static long told;
    while (asked < count && free_count > SPARE) {
        streams[asked].port = FIRST_PORT + asked;
        if (!say(streams[asked].port, REQUEST, 0, 0))
            break;
        streams[asked++].state = CONNECTING;
    }
    reap();
    kick(&tx);
    if (now_ms() - told >= 1000) {
        told = now_ms();
        printf("%ld %u %u %u %u\n", told, asked, accepted, refused, ended);
        fflush(stdout);
    }
}

static int open_device(void)
{
    int device = open("/dev/vhost-vsock", O_RDWR | O_CLOEXEC);
    if (device < 0)
        fail("/dev/vhost-vsock");
    while (ioctl(device, VHOST_VSOCK_SET_GUEST_CID, &cid))
        if (errno == EADDRINUSE)
            usleep(100);
        else
            fail("CID");
    return device;
}

static void drive(int device)
{
    memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    uint64_t features = 1ULL << VIRTIO_F_VERSION_1;
    struct {
        struct vhost_memory head;
        struct vhost_memory_region all;
    } table = {{1, 0}, {0, memory_size, (uintptr_t)memory, 0}};
    if (ioctl(device, VHOST_SET_OWNER, NULL) ||
        ioctl(device, VHOST_SET_FEATURES, &features) ||
        ioctl(device, VHOST_SET_MEM_TABLE, &table))
        fail("vhost");
    set_up(&rx, device, 0);
    set_up(&tx, device, 1);
    for (uint16_t slot = 0; slot < SLOTS; slot++) {
        struct vring_desc *d = &rx.ring.desc[slot];
        d->addr = (uint64_t)(rx.buffers + (size_t)slot * BUFFER - memory);
        d->len = BUFFER;
        d->flags = VRING_DESC_F_WRITE;
        offer(&rx, slot);
        free_slots[free_count++] = slot;
    }
    int run = 1;
    if (ioctl(device, VHOST_VSOCK_SET_RUNNING, &run))
        fail("running");
}

int main(int argc, char **argv)
{
    if (argc != 7 || strlen(argv[4]) != 2 * WORD)
        return 2;
    int device = atoi(argv[1]);
    pid_t parent = getppid();
    cid = strtoull(argv[2], NULL, 10);
    service = (uint32_t)strtoul(argv[3], NULL, 10);
    for (unsigned i = 0; i < WORD; i++)
        if (sscanf(argv[4] + 2 * i, "%2hhx", &word[i]) != 1)
            return 2;
    count = (unsigned)atoi(argv[5]);
    next_port = word[0];
    half = !strcmp(argv[6], "half");
    if (count > (half ? MOST : SPARE))
        return 2;
    drive(device < 0 ? open_device() : device);
    /* Streams of the machine before, if there were any left. */
    if (strcmp(argv[6], "blind") == 0)
        for (uint32_t port = FIRST_PORT; port < FIRST_PORT + PORTS; port++)
            say(port, RW, 0, SAY);
    kick(&tx);
    while (getppid() == parent) {
        struct pollfd wait = {rx.call, POLLIN, 0};
        uint64_t calls;
        half ? ask() : speak();
        poll(&wait, 1, 2);
        usleep(2000); /* the broker has the same processor */
        (void)!read(rx.call, &calls, 8);
        hear_all();
    }
    return 0;
}
