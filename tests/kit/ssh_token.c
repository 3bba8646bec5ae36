/*
 * A hardware key for OpenSSH that is a program: the middleware interface of security
 * keys (sk-api.h of OpenSSH, PROTOCOL.u2f), version 10, for Ed25519.
 *
 * The key handle is the key's seed.  A signature waits for a touch, which is a byte
 * read from the FIFO that SSH_TOKEN_TOUCH names.
 *
 * gcc -shared -fPIC ssh_token.c -l:libcrypto.so.3: the functions of OpenSSL that it
 * needs are declared here, so that its headers are not.
 */

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define ED25519 1
#define KEY_BYTES 32
#define SIGNATURE_BYTES 64
#define DIGEST_BYTES 32
#define NID_ED25519 1087
#define TOUCH_REQUIRED 0x01
#define ERR_GENERAL -1
#define ERR_UNSUPPORTED -2

typedef struct evp_pkey_st EVP_PKEY;
typedef struct evp_md_ctx_st EVP_MD_CTX;
EVP_PKEY *EVP_PKEY_new_raw_private_key(int, void *, const uint8_t *, size_t);
int EVP_PKEY_get_raw_public_key(const EVP_PKEY *, uint8_t *, size_t *);
void EVP_PKEY_free(EVP_PKEY *);
EVP_MD_CTX *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(EVP_MD_CTX *);
int EVP_DigestSignInit(EVP_MD_CTX *, void *, void *, void *, EVP_PKEY *);
int EVP_DigestSign(EVP_MD_CTX *, uint8_t *, size_t *, const uint8_t *, size_t);
uint8_t *SHA256(const uint8_t *, size_t, uint8_t *);

struct enrolled {
	uint8_t flags;
	uint8_t *public_key;
	size_t public_key_len;
	uint8_t *key_handle;
	size_t key_handle_len;
	uint8_t *signature;
	size_t signature_len;
	uint8_t *certificate;
	size_t certificate_len;
	uint8_t *authdata;
	size_t authdata_len;
};

struct signed_data {
	uint8_t flags;
	uint32_t counter;
	uint8_t *r;
	size_t r_len;
	uint8_t *s;
	size_t s_len;
};

uint32_t sk_api_version(void)
{
	return 0x000a0000;
}

int sk_enroll(uint32_t kind, const uint8_t *challenge, size_t challenge_len,
	      const char *application, uint8_t flags, const char *pin, void **options,
	      struct enrolled **answer)
{
	(void)challenge, (void)challenge_len, (void)application, (void)pin, (void)options;
	struct enrolled *made = calloc(1, sizeof *made);
	EVP_PKEY *key = NULL;

	*answer = NULL;
	if (kind != ED25519)
		return ERR_UNSUPPORTED;
	if (made == NULL)
		return ERR_GENERAL;
	made->flags = flags;
	made->public_key_len = made->key_handle_len = KEY_BYTES;
	made->public_key = malloc(KEY_BYTES);
	made->key_handle = malloc(KEY_BYTES);
	made->signature = malloc(1); /* of an attestation, which there is not */
	if (getrandom(made->key_handle, KEY_BYTES, 0) == KEY_BYTES)
		key = EVP_PKEY_new_raw_private_key(NID_ED25519, NULL, made->key_handle,
						   KEY_BYTES);
	if (key == NULL ||
	    EVP_PKEY_get_raw_public_key(key, made->public_key, &made->public_key_len) != 1)
		return ERR_GENERAL;
	EVP_PKEY_free(key);
	*answer = made;
	return 0;
}

static int touched(void)
{
	const char *path = getenv("SSH_TOKEN_TOUCH");
	char byte;
	int fd = path == NULL ? -1 : open(path, O_RDONLY);
	int found = fd >= 0 && read(fd, &byte, 1) == 1;

	if (fd >= 0)
		close(fd);
	return found;
}

int sk_sign(uint32_t kind, const uint8_t *data, size_t data_len, const char *application,
	    const uint8_t *key_handle, size_t key_handle_len, uint8_t flags,
	    const char *pin, void **options, struct signed_data **answer)
{
	(void)pin, (void)options;
	struct signed_data *made = calloc(1, sizeof *made);
	/* The application's digest, flags, counter, the data's digest. */
	uint8_t whole[DIGEST_BYTES + 1 + 4 + DIGEST_BYTES] = {0};
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	EVP_PKEY *key;

	*answer = NULL;
	if (kind != ED25519 || key_handle_len != KEY_BYTES)
		return ERR_UNSUPPORTED;
	if (made == NULL || context == NULL || ((flags & TOUCH_REQUIRED) && !touched()))
		return ERR_GENERAL;
	made->flags = flags & TOUCH_REQUIRED;
	made->counter = 7;
	made->r_len = SIGNATURE_BYTES;
	made->r = malloc(SIGNATURE_BYTES);
	SHA256((const uint8_t *)application, strlen(application), whole);
	whole[DIGEST_BYTES] = made->flags;
	whole[DIGEST_BYTES + 4] = (uint8_t)made->counter;
	SHA256(data, data_len, whole + DIGEST_BYTES + 5);
	key = EVP_PKEY_new_raw_private_key(NID_ED25519, NULL, key_handle, KEY_BYTES);
	if (key == NULL || EVP_DigestSignInit(context, NULL, NULL, NULL, key) != 1 ||
	    EVP_DigestSign(context, made->r, &made->r_len, whole, sizeof whole) != 1)
		return ERR_GENERAL;
	EVP_PKEY_free(key);
	EVP_MD_CTX_free(context);
	*answer = made;
	return 0;
}

int sk_load_resident_keys(const char *pin, void **options, void *keys, size_t *count)
{
	(void)pin, (void)options, (void)keys, (void)count;
	return ERR_UNSUPPORTED;
}
